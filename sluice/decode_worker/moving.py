"""One migration away from this worker: copy while the sequence runs, freeze, copy the rest, tell all.

The legal moves are the rows of `kv_transfer/migration.py`; this file does what each state is for,
feeds the table what came of it, and carries out the effects. How often to copy before the freeze
is decided by `precopy.py`. Next: `migrations.py`, which owns these.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import assert_never

import grpc

from sluice.decode_worker import precopy
from sluice.domain.block_hash import HASH_UNIT_TOKENS, extend_chain
from sluice.domain.ids import BlockHash
from sluice.domain.role import Lifecycle
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import Engine, KvExtent
from sluice.errors import IllegalTransitionError, ReservationRefusedError, SluiceError
from sluice.kv_transfer.migration import Migration, SourceEffect, SourceEvent, SourceState
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.status import explain
from sluice.worker.outbound import Outbound, Surroundings, Wanted
from sluice.worker.push_progress import PushProgress
from sluice.worker.written import WRITTEN

log = logging.getLogger(__name__)


class Moving:
    """The source side of one sequence's migration; `run` drives it to its end."""

    def __init__(self, around: Surroundings, state: SequenceState, target: pb.DecodeTarget) -> None:
        """`state` is the sequence as it is now, somewhere between two steps."""
        self.sequence = state.sequence
        self.epoch = state.epoch
        self._around = around
        self._state = state
        self._target = target
        self._protocol = Migration()
        self._changed = asyncio.Event()
        self.outbound = Outbound(around, parent=state.traceparent, on_change=self._changed.set)
        geometry = around.geometry
        self._progress = PushProgress(groups=geometry.groups, block_tokens=geometry.block_tokens)
        self._extent = KvExtent(computed=0, blocks=())
        self._computed = 0
        self._room_tokens = 0
        self._rounds = 0
        self._paced_end = 0  # tokens of the sequence with which resting ends
        self._is_over = False
        self._is_denied = False
        self._is_unstarted = False  # it waits, or waits again: no KV of it exists
        self._frozen_s = 0.0
        self._reason = ""

    # ---------------------------------------------------------------- what happens to it

    def on_over(self) -> None:
        """The sequence finished, was cancelled, or is the target's now."""
        self._is_over = True
        self._changed.set()

    def on_denied(self) -> None:
        """The router did not grant the target the next epoch, and will not."""
        self._is_denied = True
        self._changed.set()

    # ---------------------------------------------------------------- its life

    async def run(self) -> None:
        """Move the sequence or leave it running; afterwards nothing of the migration is pending."""
        while not self._protocol.has_ended:
            event = await self._next_event()
            for effect in self._protocol.on(event):
                await self._carry_out(effect)

    async def _next_event(self) -> SourceEvent:
        match self._protocol.state:
            case SourceState.RESERVING:
                return await self._reserve()
            case SourceState.COPYING:
                return await self._copy()
            case SourceState.FROZEN:
                return await self._push_rest()
            case SourceState.COMMITTING:
                return await self._commit()
            case SourceState.READY:
                await self._wait(lambda: self._is_over or self._is_denied)
                return SourceEvent.OVER if self._is_over else SourceEvent.DENIED
            case SourceState.LETTING_GO | SourceState.ENDING:
                await self.outbound.pushes.wait_ended()
                return SourceEvent.WRITES_STOPPED
            case ended:
                raise AssertionError(f"nothing can happen in {ended}")

    async def _carry_out(self, effect: SourceEffect) -> None:
        match effect:
            case SourceEffect.START_PUSHES | SourceEffect.SEND_COMMIT:
                pass  # what the next state does first
            case SourceEffect.FREEZE:
                pass  # done by the look that found little left
            case SourceEffect.UNFREEZE:
                if not self._is_over:
                    self._around.shell.unfreeze(self.sequence)
            case SourceEffect.STOP_PUSHES:
                self.outbound.pushes.abandon()
            case SourceEffect.DROP_RESERVATION:
                await self.outbound.drop(self._reason)
            case SourceEffect.REPORT_READY:
                self._report(pb.MIGRATION_READY)
            case SourceEffect.REPORT_REFUSED:
                self._report(pb.MIGRATION_REFUSED)
            case SourceEffect.REPORT_FAILED if self._is_unstarted:
                self._report(pb.MIGRATION_UNSTARTED)
            case SourceEffect.REPORT_FAILED:
                log.warning(
                    "migration of sequence %d to %s failed: %s", self.sequence, self._target.worker, self._reason
                )
                self._report(pb.MIGRATION_FAILED)
            case _:
                assert_never(effect)

    # ---------------------------------------------------------------- one state each

    async def _reserve(self) -> SourceEvent:
        """Ask the target for room for what is there and what may come while copying."""
        longest = self._around.shell.info.sequence_tokens_max - 1
        tokens = len(self._state.tokens)
        self._room_tokens = min(longest, tokens + precopy.growth_tokens(tokens))
        self._paced_end = tokens + precopy.paced_tokens(self._room_tokens - tokens)
        wanted = Wanted(
            sequence=self.sequence,
            epoch=self.epoch,
            tokens=self._room_tokens,
            unit_hashes=_hashes_of_computed(self._state),
            root=self._state.root,
        )
        try:
            await self.outbound.reserve(self._target, wanted)
        except ReservationRefusedError as error:
            return self._because(str(error), SourceEvent.RESERVE_REFUSED)
        except (SluiceError, grpc.RpcError) as error:
            return self._because(explain(error), SourceEvent.RESERVE_LOST)
        self._progress.start_over(cached_tokens=self.outbound.cached_tokens)
        return SourceEvent.OVER if self._is_over else SourceEvent.RESERVE_GRANTED

    async def _copy(self) -> SourceEvent:
        """Push full blocks round by round while the sequence runs, until little is left."""
        copied = self.outbound.cached_tokens
        while True:
            self._rounds += 1
            try:
                is_frozen = await self._look(copied=copied)
            except IllegalTransitionError:
                if self._is_over:
                    return SourceEvent.OVER
                self._is_unstarted = True
                why = "it was preempted, its KV is gone, or images of its prompt are still to be read"
                return self._because(why, SourceEvent.PREEMPTED)
            if is_frozen:
                return SourceEvent.OVER if self._is_over else SourceEvent.LITTLE_LEFT
            problem = await self._push_round(copied)
            if problem is not None:
                return problem
            copied = self._extent.computed - self._extent.computed % self._around.geometry.block_tokens

    async def _push_rest(self) -> SourceEvent:
        """Push what came since the last round; the sequence stands still."""
        if self._is_over:
            return SourceEvent.OVER
        if self._extent.computed > self._room_tokens:
            return self._because("it outgrew the room at the target", SourceEvent.PUSH_FAILED)
        # The target may have cached more of a prompt than has been computed here.
        self._computed = max(self._extent.computed, self.outbound.cached_tokens)
        self._progress.seal(end=self._computed)
        problem = await self._push_until_done()
        return SourceEvent.PUSHES_DONE if problem is None else problem

    async def _commit(self) -> SourceEvent:
        """Tell the target the whole state; it owns nothing yet."""
        if self._is_over:
            return SourceEvent.OVER
        try:
            reply = await self.outbound.commit(
                self._state, blocks=self._extent.blocks, computed=self._computed, parked=True
            )
        except (SluiceError, grpc.RpcError) as error:
            return self._because(explain(error), SourceEvent.COMMIT_LOST)
        if self._is_over:
            return SourceEvent.OVER
        if reply.attached:
            return SourceEvent.COMMIT_ACCEPTED
        return self._because(f"commit refused: {reply.refusal}", SourceEvent.COMMIT_REFUSED)

    # ---------------------------------------------------------------- the parts of it

    async def _look(self, *, copied: int) -> bool:
        """Learn what KV there is now, and freeze the sequence if little of it is left to copy; whether it is frozen.

        One question for all: each more would wait for another step of the sequences that go on.
        Raises IllegalTransitionError if it has no KV any more, or waits for images.
        """
        shell = self._around.shell
        images_end = self._state.images[-1].end if self._state.images else 0

        def look(engine: Engine) -> tuple[KvExtent, SequenceState | None, float]:
            extent = engine.kv_of(self.sequence)
            if extent.computed < images_end:  # the embeddings come here, not to the target
                raise IllegalTransitionError(state="PREFILL", event=f"move of sequence {self.sequence}")
            done = precopy.Round(
                number=self._rounds,
                computed=extent.computed,
                copied=copied,
                block_tokens=self._around.geometry.block_tokens,
                room_tokens=self._room_tokens,
                rounds_max=self._around.settings.copy_rounds_max,
            )
            if precopy.after(done) is precopy.Choice.COPY_AGAIN:
                return extent, None, 0.0
            engine.hold(self.sequence)
            return extent, engine.state_of(self.sequence), shell.now_s()

        self._extent, state, self._frozen_s = await shell.ask(look)
        if state is None:
            return False
        self._state = shell.owned(state)
        return True

    async def _push_round(self, copied: int) -> SourceEvent | None:
        """Push the full blocks that are written and not `copied`; in the first round piece by piece, with rests.

        Returns what went wrong, if anything.
        """
        computed, now_s = self._extent.computed, self._around.shell.now_s
        token_bytes = self._around.geometry.token_bytes
        piece_tokens = max(1, precopy.PIECE_BYTES // token_bytes)
        for end in precopy.pieces(first=copied, end=computed, piece_tokens=piece_tokens):
            self._progress.wrote_all(end=end)
            began_s = now_s()
            problem = await self._push_until_done()
            if problem is not None:
                return problem
            worked_s = now_s() - began_s
            if end == computed:
                worked_s += precopy.joining_s(computed * token_bytes, is_gathered=self._around.view is not None)
            if self._rounds == 1:
                await self._rest(worked_s)
        return None

    @property
    def _is_urgent(self) -> bool:
        """Whether somebody waits for this worker to be empty, or the sequence does not decode yet."""
        return self._around.shell.standing.lifecycle is Lifecycle.DRAINING or self._state.output_tokens == 0

    async def _rest(self, worked_s: float) -> None:
        """Leave the cores to the sequences that go on, if nobody waits for this move; ends when anything happens."""
        shell, owed_s = self._around.shell, precopy.owed_s(worked_s, share=self._around.settings.copy_share)
        while not (self._is_urgent or self._is_over or self.outbound.is_lease_lost):
            left_tokens = self._paced_end - shell.tokens_of(self.sequence)
            rest_s = precopy.rest_s(owed_s, left_tokens=left_tokens, step_s=shell.load().step_s)
            if rest_s <= 0.0:
                return
            owed_s -= rest_s
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), rest_s)

    async def _push_until_done(self) -> SourceEvent | None:
        """Push what can go and wait for it; what went wrong, if anything."""
        while True:
            if self._is_over:
                return SourceEvent.OVER
            if self.outbound.is_lease_lost:
                return self._because("the target's lease ended before the copy did", SourceEvent.LEASE_LOST)
            if why := self.outbound.failed_push():
                return self._because(why, SourceEvent.PUSH_FAILED)
            self.outbound.push(self._progress, blocks=self._extent.blocks, fence=WRITTEN)
            if not self.outbound.pushes:
                return None
            self._changed.clear()
            await self._changed.wait()

    async def _wait(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()

    def _because(self, reason: str, event: SourceEvent) -> SourceEvent:
        self._reason = reason
        return event

    def _report(self, outcome: pb.MigrationOutcome) -> None:
        report = pb.MigrationReport(
            sequence=self.sequence,
            epoch=self.epoch,
            outcome=outcome,
            target_worker=self._target.worker,
            reason=self._reason,
            transport=self.outbound.transport,
            bytes=self.outbound.pushes.moved_bytes,
            transfer_s=self.outbound.pushes.seconds,
            rounds=self._rounds,
            frozen_s=self._around.shell.now_s() - self._frozen_s if self._frozen_s else 0.0,
            tokens=len(self._state.tokens),
        )
        self._around.shell.report(self.sequence, pb.WorkerMessage(migration=report))


def _hashes_of_computed(state: SequenceState) -> tuple[BlockHash, ...]:
    """The hashes of all tokens but the last, whose KV does not exist: it must not be found cached."""
    known = state.unit_hashes[: (len(state.tokens) - 1) // HASH_UNIT_TOKENS]
    parent = known[-1] if known else state.root
    return (*known, *extend_chain(parent, state.tokens[len(known) * HASH_UNIT_TOKENS : -1]))
