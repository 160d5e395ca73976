"""Every migration this worker is the source of: begun by a router, told what happens, forgotten at the end.

Lives on the event loop. Next: `moving.py`, one migration.
"""

import asyncio
import logging

from sluice.decode_worker.moving import Moving
from sluice.domain.ids import Epoch, SequenceId
from sluice.errors import ConfigError, SluiceError
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.outbound import Outbound, Surroundings

log = logging.getLogger(__name__)


class MigrationTable:
    """Implements `worker.stages.Migrations`."""

    def __init__(self, around: Surroundings) -> None:
        """Raises ConfigError for a share of time that is none."""
        if not 0.0 < around.settings.copy_share <= 1.0:
            raise ConfigError(f"transfer.copy_share: is {around.settings.copy_share}; use above 0, and 1 at most")
        self._around = around
        self._moving: dict[SequenceId, Moving] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        return len(self._moving)

    def begin(self, sequence: SequenceId, epoch: Epoch, target: pb.DecodeTarget) -> None:
        if sequence in self._moving:
            return  # the same message twice; the first one's report answers both
        task = asyncio.create_task(self._run(sequence, epoch, target), name=f"migration {sequence}")
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def on_ended(self, sequence: SequenceId) -> None:
        if (moving := self._moving.get(sequence)) is not None:
            moving.on_over()

    def deny(self, sequence: SequenceId, epoch: Epoch) -> None:
        moving = self._moving.get(sequence)
        if moving is not None and moving.epoch == epoch:
            moving.on_denied()

    def open_transfers(self) -> list[Outbound]:
        """Transfers whose leases must be renewed."""
        return [moving.outbound for moving in self._moving.values()]

    async def close(self) -> None:
        """Give every migration up and wait until their memory is safe."""
        for moving in list(self._moving.values()):
            moving.on_over()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, sequence: SequenceId, epoch: Epoch, target: pb.DecodeTarget) -> None:
        shell = self._around.shell
        try:
            state = shell.owned(await shell.ask(lambda engine: engine.state_of(sequence)))
        except SluiceError:
            return  # it ended a moment ago, and the router hears of that
        if shell.epoch_of(sequence) != epoch or sequence in self._moving:
            return
        moving = self._moving[sequence] = Moving(self._around, state, target)
        try:
            await moving.run()
        finally:
            del self._moving[sequence]

    def _on_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._around.shell.note_empty()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s broke", task.get_name(), exc_info=error)
