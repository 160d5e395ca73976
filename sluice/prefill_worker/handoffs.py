"""Sequences prefilled here that will decode elsewhere: one `Outgoing` each, and what they share.

Routes what the shell and the engine say to the right handoff, renews all leases of a peer in
one message, and forgets a handoff only when its memory is safe. Lives on the event loop.
Next: `outgoing.py`, one handoff from reservation to commit.
"""

import asyncio
import logging
from collections.abc import Sequence
from itertools import count
from typing import Final

import grpc

from sluice.config.worker import TransferConfig
from sluice.domain.ids import Epoch, SequenceId
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import Fence, KvSpan
from sluice.kv_transfer.mover import Mover
from sluice.prefill_worker.outgoing import Outgoing, Surroundings
from sluice.telemetry.metrics import WorkerMetrics
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.status import describe
from sluice.worker.peers import Peer, Peers
from sluice.worker.shell import Shell

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE: Final = 6
RENEW_TIMEOUT_S: Final = 5.0


class HandoffTable:
    """Every handoff this worker is the source of. Implements `worker.stages.Handoffs`."""

    def __init__(
        self,
        *,
        shell: Shell,
        peers: Peers,
        mover: Mover,
        settings: TransferConfig,
        metrics: WorkerMetrics,
        view: memoryview | None,
    ) -> None:
        self._around = Surroundings(
            shell=shell,
            peers=peers,
            mover=mover,
            view=view,
            settings=settings,
            metrics=metrics,
            transfers=count(1),
            pushes=count(1),
        )
        self._loop = asyncio.get_running_loop()
        self._outgoing: dict[SequenceId, Outgoing] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
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

    def cancel(self, sequence: SequenceId) -> bool:
        outgoing = self._outgoing.get(sequence)
        if outgoing is None:
            return False
        outgoing.give_up()
        return True

    async def renew_forever(self) -> None:
        """Keep the reservations of open handoffs alive, one message per peer and period."""
        while True:
            await asyncio.sleep(self._around.settings.lease_s / RENEWALS_PER_LEASE)
            by_peer: dict[str, tuple[Peer, list[Outgoing]]] = {}
            for outgoing in self._outgoing.values():
                if (peer := outgoing.reserved_at) is not None:
                    by_peer.setdefault(peer.boot, (peer, []))[1].append(outgoing)
            await asyncio.gather(*(self._renew(peer, handoffs) for peer, handoffs in by_peer.values()))

    async def close(self) -> None:
        """Give every handoff up and wait until their memory is safe."""
        for outgoing in list(self._outgoing.values()):
            outgoing.give_up()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _renew(self, peer: Peer, handoffs: Sequence[Outgoing]) -> None:
        transfers = {outgoing.transfer: outgoing for outgoing in handoffs}
        request = pb.RenewRequest(from_boot=self._around.shell.info.boot, transfers=transfers)
        try:
            reply = await peer.stub.RenewLeases(request, timeout=RENEW_TIMEOUT_S)
        except grpc.RpcError as error:
            # Not a verdict: the lease may outlive a lost renewal, and commit finds out if it did not.
            log.warning("renewing leases at %s: %s", peer.worker, describe(error))
            return
        for transfer in reply.lost:
            if transfer in transfers:
                transfers[transfer].on_lease_lost()

    def _on_group(self, group: int, spans: Sequence[KvSpan], fence: Fence) -> None:
        for span in spans:
            if (outgoing := self._outgoing.get(span.sequence)) is not None:
                outgoing.on_group(group, span, fence)

    def _on_done(self, outgoing: Outgoing, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._outgoing.get(outgoing.state.sequence) is outgoing:
            del self._outgoing[outgoing.state.sequence]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("handoff of sequence %d broke", outgoing.state.sequence, exc_info=error)
