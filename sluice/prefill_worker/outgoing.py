"""One handoff, from the first computed layer group to the decode worker's commit.

The legal moves are the SENDER rows of `kv_transfer/handoff.py`; this file does what each state is
for, feeds the table what came of it, and carries out the effects. Source blocks stay untouched
until every push of them is terminal (law L4), whatever happens. Next: `worker/outbound.py`.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

import grpc

from sluice.domain.ids import BlockId
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import Fence, KvSpan
from sluice.errors import ReservationRefusedError, SluiceError
from sluice.kv_transfer.handoff import Sender, SenderEffect, SenderEvent, SenderState
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.status import explain
from sluice.worker.outbound import Outbound, Surroundings, Wanted
from sluice.worker.push_progress import PushProgress

log = logging.getLogger(__name__)


class Outgoing:
    """The prefill side of one sequence's handoff; `run` drives it to the end of its life here."""

    def __init__(self, around: Surroundings, state: SequenceState, target: pb.DecodeTarget, *, parent: str) -> None:
        self.state = state
        self._around = around
        self._parent = parent
        is_named = bool(target.worker)  # nobody yet: hold it until a retarget names somebody
        self._sender = Sender() if is_named else Sender(SenderState.UNPLACED)
        self._target: pb.DecodeTarget | None = target if is_named else None
        self._target_name = target.worker
        self._is_answered = False  # the router has answered a refusal
        self._changed = asyncio.Event()
        self.outbound = Outbound(around, parent=parent, on_change=self._changed.set)
        self._reason = ""
        self._progress = PushProgress(
            groups=around.geometry.groups,
            block_tokens=around.geometry.block_tokens,
            total_tokens=len(state.tokens),
        )
        self._blocks: tuple[BlockId, ...] = ()
        self._fence: Fence
        self._is_held = False
        self._is_given_up = False
        self._held_s = 0.0

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
        self._progress.wrote_all(end=len(self.state.tokens))
        self._changed.set()

    def give_up(self) -> None:
        """Nobody wants it any more, or it ended with its first token."""
        self._is_given_up = True
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
                self.outbound.pushes.abandon()
            case SenderEffect.DROP_RESERVATION:
                await self.outbound.drop(self._reason)
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
        target, self._target = self._target, None
        assert target is not None, "a reservation is asked of somebody"
        self._target_name = target.worker
        self.outbound = Outbound(self._around, parent=self._parent, on_change=self._changed.set)
        wanted = Wanted(
            sequence=self.state.sequence,
            epoch=self.state.epoch,
            tokens=len(self.state.tokens),
            unit_hashes=self.state.unit_hashes,
            root=self.state.root,
        )
        try:
            await self.outbound.reserve(target, wanted)
        except ReservationRefusedError as error:
            return self._because(str(error), SenderEvent.RESERVE_REFUSED)
        except (SluiceError, grpc.RpcError) as error:
            return self._because(explain(error), SenderEvent.RESERVE_LOST)
        if self._is_given_up:
            return SenderEvent.CANCELLED
        self._progress.start_over(cached_tokens=self.outbound.cached_tokens)
        return SenderEvent.RESERVE_GRANTED

    async def _push_everything(self) -> SenderEvent:
        """Push what is written as it is written, until all of it has arrived."""
        while True:
            if self._is_given_up:
                return SenderEvent.CANCELLED
            if self.outbound.is_lease_lost:
                return self._because("the target's lease ended before the transfer did", SenderEvent.LEASE_LOST)
            if why := self.outbound.failed_push():
                return self._because(why, SenderEvent.PUSH_FAILED)
            self.outbound.push(self._progress, blocks=self._blocks, fence=self._fence)
            if self._is_held and self._progress.is_all_taken and not self.outbound.pushes:
                return SenderEvent.PUSHES_DONE
            await self._next_change()

    async def _commit(self) -> SenderEvent:
        """Tell the decode worker that all has arrived, with the state to go on from."""
        if self._is_given_up:
            return SenderEvent.CANCELLED
        try:
            shell = self._around.shell
            state = shell.owned(await shell.ask(lambda engine: engine.state_of(self.state.sequence)))
            state = replace(state, traceparent=self._parent or state.traceparent)
            computed = len(self.state.tokens)
            reply = await self.outbound.commit(state, blocks=self._blocks, computed=computed, parked=False)
        except (SluiceError, grpc.RpcError) as error:
            return self._because(explain(error), SenderEvent.COMMIT_LOST)
        if reply.attached:
            return SenderEvent.COMMIT_ACCEPTED
        return self._because(f"commit refused: {reply.refusal}", SenderEvent.COMMIT_REFUSED)

    async def _wait_until_writes_stopped(self) -> SenderEvent:
        """Until no push of ours can still read these blocks or write the target's."""
        await self.outbound.pushes.wait_ended()
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

    def _because(self, reason: str, event: SenderEvent) -> SenderEvent:
        self._reason = reason
        return event

    def _report(self, outcome: pb.HandoffOutcome) -> None:
        report = pb.HandoffReport(
            sequence=self.state.sequence,
            epoch=self.state.epoch,
            outcome=outcome,
            decode_worker=self._target_name,
            reason=self._reason,
            transport=self.outbound.transport,
            bytes=self.outbound.pushes.moved_bytes,
            transfer_s=self.outbound.pushes.seconds,
            exposed_s=self._now_s() - self._held_s if self._is_held else 0.0,
            cached_tokens=self.outbound.cached_tokens,
        )
        self._around.shell.report(self.state.sequence, pb.WorkerMessage(handoff=report))

    async def _wait(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            await self._next_change()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _now_s(self) -> float:
        return self._around.shell.now_s()
