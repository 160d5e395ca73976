"""Sequences prefilled here that will decode elsewhere: one `Outgoing` each, and what they share.

Routes what the shell and the engine say to the right handoff, and forgets a handoff only when
its memory is safe. Lives on the event loop.
Next: `outgoing.py`, one handoff from reservation to commit.
"""

import asyncio
import logging
from collections.abc import Sequence

from sluice.domain.ids import Epoch, SequenceId
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import Fence, KvSpan
from sluice.prefill_worker.outgoing import Outgoing
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.outbound import Outbound, Surroundings

log = logging.getLogger(__name__)


class HandoffTable:
    """Every handoff this worker is the source of. Implements `worker.stages.Handoffs`."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._outgoing: dict[SequenceId, Outgoing] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        return len(self._outgoing)

    def begin(self, state: SequenceState, target: pb.DecodeTarget, *, parent: str) -> None:
        outgoing = Outgoing(self._around, state, target, parent=parent)
        self._outgoing[state.sequence] = outgoing
        task = asyncio.create_task(outgoing.run(), name=f"handoff {state.sequence}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._on_done(outgoing, done))

    def on_group(self, group: int, spans: Sequence[KvSpan], fence: Fence) -> None:
        """Called on the engine's thread, in the middle of a forward pass."""
        self._loop.call_soon_threadsafe(self._on_group, group, spans, fence)

    def on_held(self, sequence: SequenceId) -> None:
        if (outgoing := self._outgoing.get(sequence)) is not None:
            outgoing.on_held()

    def on_ended(self, sequence: SequenceId) -> None:
        if (outgoing := self._outgoing.get(sequence)) is not None:
            outgoing.give_up()

    def retarget(self, sequence: SequenceId, epoch: Epoch, target: pb.DecodeTarget | None) -> None:
        outgoing = self._outgoing.get(sequence)
        if outgoing is not None and outgoing.state.epoch == epoch:
            outgoing.retarget(target)

    def holds(self, sequence: SequenceId) -> bool:
        return sequence in self._outgoing

    def cancel(self, sequence: SequenceId) -> bool:
        outgoing = self._outgoing.get(sequence)
        if outgoing is None:
            return False
        outgoing.give_up()
        return True

    def open_transfers(self) -> list[Outbound]:
        """Transfers whose leases must be renewed."""
        return [outgoing.outbound for outgoing in self._outgoing.values()]

    async def close(self) -> None:
        """Give every handoff up and wait until their memory is safe."""
        for outgoing in list(self._outgoing.values()):
            outgoing.give_up()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _on_group(self, group: int, spans: Sequence[KvSpan], fence: Fence) -> None:
        for span in spans:
            if (outgoing := self._outgoing.get(span.sequence)) is not None:
                outgoing.on_group(group, span, fence)

    def _on_done(self, outgoing: Outgoing, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._outgoing.get(outgoing.state.sequence) is outgoing:
            del self._outgoing[outgoing.state.sequence]
        self._around.shell.note_empty()  # after it is gone: this may be the last thing a draining worker waits for
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("handoff of sequence %d broke", outgoing.state.sequence, exc_info=error)
