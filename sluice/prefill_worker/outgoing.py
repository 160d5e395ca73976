"""One handoff, from the first computed layer group to the decode worker's commit.

The legal moves are the SENDER rows of `kv_transfer/handoff.py`; this file does what each state is
for, feeds the table what came of it, and carries out the effects. Source blocks stay untouched
until every push of them is terminal (law L4), whatever happens. Next: `push_progress.py`.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, assert_never

import grpc

from sluice.config.worker import TransferConfig
from sluice.domain.ids import BlockId
from sluice.domain.kv import KvGeometry
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import Fence, KvSpan
from sluice.errors import SluiceError
from sluice.kv_transfer.checksum import crc32_of_source
from sluice.kv_transfer.handoff import Sender, SenderEffect, SenderEvent, SenderState
from sluice.kv_transfer.mover import Mover
from sluice.kv_transfer.plan import Span, compile_plan
from sluice.prefill_worker.push_progress import PushProgress
from sluice.prefill_worker.pushes import Landing, Pushes, Source
from sluice.telemetry.metric_table import Direction
from sluice.telemetry.metrics import WorkerMetrics
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.status import describe
from sluice.worker.peers import Peer, Peers
from sluice.worker.shell import Shell

log = logging.getLogger(__name__)

CALL_S_MAX: Final = 10.0
CHECKSUM_EVERY: Final = 256  # transfers, when checksums are sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all handoffs of a worker share."""

    shell: Shell
    peers: Peers
    mover: Mover
    view: memoryview | None  # this worker's KV region, for checksums; None when it is on a device
    settings: TransferConfig
    metrics: WorkerMetrics
    transfers: Iterator[int]
    pushes: Iterator[int]


class Outgoing:
    """The prefill side of one sequence's handoff; `run` drives it to the end of its life here."""

    def __init__(self, around: Surroundings, state: SequenceState, target: pb.DecodeTarget, *, parent: str) -> None:
        self.state = state
        self.transfer = next(around.transfers)
        self.reserved_at: Peer | None = None
        self._around = around
        self._parent = parent
        self._sender = Sender()
        self._target: pb.DecodeTarget | None = target
        self._target_name = target.worker
        self._is_answered = False  # the router has answered a refusal
        self._peer: Peer | None = None
        self._landing: Landing
        self._reason = ""
        self._geometry: KvGeometry = around.shell.geometry
        self._progress = PushProgress(
            groups=self._geometry.groups,
            prompt_tokens=len(state.tokens),
            block_tokens=self._geometry.block_tokens,
        )
        self._blocks: tuple[BlockId, ...] = ()
        self._fence: Fence | None = None
        self._changed = asyncio.Event()
        self._is_held = False
        self._is_given_up = False
        self._is_lease_lost = False
        self._held_s = 0.0
        source = Source(
            worker=around.shell.info.worker,
            geometry=self._geometry,
            mover=around.mover,
            metrics=around.metrics,
            numbers=around.pushes,
        )
        self._pushes = Pushes(source, parent=parent, on_change=self._changed.set)

    # ---------------------------------------------------------------- what happens to it

    def on_group(self, group: int, span: KvSpan, fence: Fence) -> None:
        """A layer group of the sequence has been written up to `span.end`."""
        self._blocks = span.blocks
        self._fence = fence
        self._progress.wrote(group, end=span.end)
        self._changed.set()

    def on_held(self) -> None:
        """All of its KV is written and its first token chosen."""
        self._is_held = True
        self._held_s = self._now_s()
        self._progress.wrote_all()
        self._changed.set()

    def give_up(self) -> None:
        """Nobody wants it any more, or it ended with its first token."""
        self._is_given_up = True
        self._changed.set()

    def on_lease_lost(self) -> None:
        """The decode worker has let the reservation go."""
        self._is_lease_lost = True
        self._changed.set()

    def retarget(self, target: pb.DecodeTarget | None) -> None:
        """Where to try next; None: decode here."""
        self._target = target
        self._is_answered = True
        self._changed.set()

    # ---------------------------------------------------------------- its life

    async def run(self) -> None:
        """Hand the sequence off, or decode it here, or free it; afterwards nothing of it is pending."""
        while not self._sender.has_ended:
            event = await self._next_event()
            for effect in self._sender.on(event):
                await self._carry_out(effect)

    async def _next_event(self) -> SenderEvent:
        """Do what the state is for, until it is over one way or another."""
        match self._sender.state:
            case SenderState.RESERVING:
                return await self._reserve()
            case SenderState.PUSHING:
                return await self._push_everything()
            case SenderState.COMMITTING:
                return await self._commit()
            case SenderState.ABANDONING | SenderState.CANCELLING:
                return await self._wait_until_writes_stopped()
            case SenderState.UNPLACED:
                return await self._wait_for_target()
            case ended:
                raise AssertionError(f"nothing can happen in {ended}")

    async def _carry_out(self, effect: SenderEffect) -> None:
        match effect:
            case SenderEffect.ASK_RESERVATION | SenderEffect.START_PUSHES | SenderEffect.SEND_COMMIT:
                pass  # what the next state does first
            case SenderEffect.STOP_PUSHES:
                self._pushes.abandon()
            case SenderEffect.DROP_RESERVATION:
                await self._drop_reservation()
            case SenderEffect.RELEASE_BLOCKS:
                await self._around.shell.ask(lambda engine: engine.abort(self.state.sequence))
            case SenderEffect.RESUME:
                self._around.shell.decode_here(self.state.sequence)
            case SenderEffect.REPORT_COMMITTED:
                self._around.metrics.handed_off(exposed_s=self._now_s() - self._held_s)
                self._report(pb.HANDOFF_COMMITTED)
                self._around.shell.disown(self.state.sequence)
            case SenderEffect.REPORT_REFUSED:
                self._report(pb.HANDOFF_REFUSED)
            case SenderEffect.REPORT_FAILED:
                log.warning("handoff of %s failed: %s", self.state.request, self._reason)
                self._report(pb.HANDOFF_FAILED)
                self._around.shell.disown(self.state.sequence)
            case _:
                assert_never(effect)

    # ---------------------------------------------------------------- one state each

    async def _reserve(self) -> SenderEvent:
        """Meet the target and ask it for blocks, once the engine has begun to compute."""
        await self._wait(lambda: self._is_given_up or bool(self._blocks))
        if self._is_given_up:
            return SenderEvent.CANCELLED
        target, self._target, self._is_lease_lost = self._target, None, False
        assert target is not None, "a reservation is asked of somebody"
        self._target_name = target.worker
        self.transfer = next(self._around.transfers)
        try:
            self._peer = await self._around.peers.meet(target)
            self.reserved_at = self._peer
            reply = await self._peer.stub.Reserve(self._reserve_request(self._peer), timeout=CALL_S_MAX)
        except (SluiceError, grpc.RpcError) as error:
            return self._lost(error, SenderEvent.RESERVE_LOST)
        if not reply.granted:
            self.reserved_at, self._reason = None, reply.refusal
            return SenderEvent.RESERVE_REFUSED
        if self._is_given_up:
            return SenderEvent.CANCELLED
        self._progress.start_over(cached_tokens=reply.cached_tokens)
        blocks = tuple(BlockId(block) for block in reply.blocks)
        self._landing = Landing(self._peer, blocks, reply.cached_tokens, reply.grant)
        return SenderEvent.RESERVE_GRANTED

    async def _push_everything(self) -> SenderEvent:
        """Push what is written as it is written, until all of it has arrived."""
        landing = self._landing
        rounding = min(self._geometry.block_tokens, landing.peer.geometry.block_tokens)
        while True:
            if self._is_given_up:
                return SenderEvent.CANCELLED
            if self._is_lease_lost:
                self._reason = "the decode worker's lease ended before the transfer did"
                return SenderEvent.LEASE_LOST
            if (failed := self._pushes.collect(landing.peer)) is not None:
                self._reason = f"push over {landing.peer.transport} failed: {failed.reason}"
                return SenderEvent.PUSH_FAILED
            for stretch in self._progress.take(end_block_tokens=rounding):
                assert self._fence is not None, "nothing is pushed before it is written"
                self._pushes.start(landing, stretch, blocks=self._blocks, fence=self._fence)
            if self._is_held and self._progress.is_all_taken and not self._pushes:
                return SenderEvent.PUSHES_DONE
            await self._next_change()

    async def _commit(self) -> SenderEvent:
        """Tell the decode worker that all has arrived, with the state to go on from."""
        landing, sequence = self._landing, self.state.sequence
        if self._is_given_up:
            return SenderEvent.CANCELLED
        try:
            state = await self._around.shell.ask(lambda engine: engine.state_of(sequence))
            request = await self._commit_request(landing, state)
            reply = await landing.peer.stub.Commit(request, timeout=CALL_S_MAX)
        except (SluiceError, grpc.RpcError) as error:
            return self._lost(error, SenderEvent.COMMIT_LOST)
        self.reserved_at = None
        if not reply.attached:
            self._reason = f"commit refused: {reply.refusal}"
            return SenderEvent.COMMIT_REFUSED
        self._around.metrics.transferred(
            transport=landing.peer.transport,
            direction=Direction.SENT,
            moved_bytes=self._pushes.moved_bytes,
            seconds=self._pushes.seconds,
        )
        return SenderEvent.COMMIT_ACCEPTED

    async def _wait_until_writes_stopped(self) -> SenderEvent:
        """Until no push of ours can still read these blocks or write the target's."""
        await self._pushes.wait_ended()
        return SenderEvent.WRITES_STOPPED

    async def _wait_for_target(self) -> SenderEvent:
        """The router answers a refusal with another target, or with none: decode here."""
        await self._wait(lambda: self._is_given_up or self._is_answered)
        self._is_answered = False
        if not self._is_given_up and self._target is not None:
            return SenderEvent.TARGET_NAMED
        await self._wait(lambda: self._is_given_up or self._is_held)
        return SenderEvent.CANCELLED if self._is_given_up else SenderEvent.RESUME_HERE

    # ---------------------------------------------------------------- the parts of it

    def _lost(self, error: SluiceError | grpc.RpcError, event: SenderEvent) -> SenderEvent:
        self._reason = describe(error) if isinstance(error, grpc.RpcError) else str(error)
        return event

    def _reserve_request(self, peer: Peer) -> pb.ReserveRequest:
        return pb.ReserveRequest(
            from_boot=self._around.shell.info.boot,
            to_boot=peer.boot,
            transfer=self.transfer,
            sequence=self.state.sequence,
            epoch=self.state.epoch,
            tokens=len(self.state.tokens),
            unit_hashes=convert.hashes_to_wire(self.state.unit_hashes),
        )

    async def _commit_request(self, landing: Landing, state: SequenceState) -> pb.CommitRequest:
        proofs, is_checksummed = await self._proofs(landing)
        return pb.CommitRequest(
            from_boot=self._around.shell.info.boot,
            transfer=self.transfer,
            state=convert.state_to_wire(replace(state, traceparent=self._parent or state.traceparent)),
            proofs=proofs,
            checksummed=is_checksummed,
            computed=len(self.state.tokens),
            transport=landing.peer.transport,
        )

    def _report(self, outcome: pb.HandoffOutcome) -> None:
        report = pb.HandoffReport(
            sequence=self.state.sequence,
            epoch=self.state.epoch,
            outcome=outcome,
            decode_worker=self._target_name,
            reason=self._reason,
            transport=self._peer.transport if self._peer is not None else "",
            bytes=self._pushes.moved_bytes,
            transfer_s=self._pushes.seconds,
            exposed_s=self._now_s() - self._held_s if self._is_held else 0.0,
            cached_tokens=self._landing.cached_tokens if outcome == pb.HANDOFF_COMMITTED else 0,
        )
        self._around.shell.report(self.state.sequence, report)

    async def _drop_reservation(self) -> None:
        """Tell the target that we write no more, so that it need not wait for its lease to end."""
        peer, self.reserved_at = self.reserved_at, None
        if peer is None:
            return
        request = pb.AbandonRequest(
            from_boot=self._around.shell.info.boot, transfer=self.transfer, reason=self._reason, writes_stopped=True
        )
        try:
            await peer.stub.Abandon(request, timeout=CALL_S_MAX)
        except grpc.RpcError as error:
            log.info("could not tell %s: %s", peer.worker, describe(error))
            await self._around.peers.forget(peer.boot)

    async def _proofs(self, landing: Landing) -> tuple[list[pb.GroupProof], bool]:
        """Per layer group, how many bytes were sent, and their CRC-32 if this transfer is checked."""
        view = self._around.view
        mode = self._around.settings.checksums
        is_checked = mode == "always" or (mode == "sampled" and self.transfer % CHECKSUM_EVERY == 1)
        span = Span(
            source_blocks=self._blocks,
            target_blocks=landing.blocks,
            first=landing.cached_tokens,
            end=len(self.state.tokens),
        )
        proofs = []
        for group in range(self._geometry.groups):
            plan = compile_plan(source=self._geometry, target=landing.peer.geometry, group=group, span=span)
            proof = pb.GroupProof(bytes=plan.total_bytes)
            if is_checked and view is not None:
                proof.crc32 = await asyncio.to_thread(crc32_of_source, view, plan)
            proofs.append(proof)
        return proofs, is_checked and view is not None

    async def _wait(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            await self._next_change()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _now_s(self) -> float:
        return self._around.shell.now_s()
