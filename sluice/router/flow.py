"""One sequence's journey: queued, placed, prefilled, handed off, decoded, finished; and every detour.

The legal moves are `journey.py`'s table; this file carries out their effects: it tells workers, grants epochs, orders
tokens, makes text of them. It never awaits: events come from the dispatcher, text leaves through the request's outbox.
Law L3: one epoch is current, and a new one is granted before anyone else continues the sequence.
Next: `dispatcher.py`, who owns all flows.
"""

from typing import Final, Protocol, TypeAlias, assert_never

from sluice.domain.ids import Epoch, SequenceId, WorkerId
from sluice.domain.role import FinishReason
from sluice.domain.sampling import SamplingParams
from sluice.errors import SluiceError, WorkerLostError
from sluice.policy.policy import Placed
from sluice.router import journey, orders
from sluice.router.choice_text import ChoiceText
from sluice.router.choice_writer import ChoiceWriter
from sluice.router.claims import Copy
from sluice.router.fleet import Member
from sluice.router.job import Prompt, state_of
from sluice.router.journey import Effect, Event, State
from sluice.router.output import TokenLogprobs
from sluice.router.records import MoveBegun, Record
from sluice.router.request import Request
from sluice.router.stream_order import StreamOrder
from sluice.wire.gen import sluice_pb2 as pb

ADOPTION_EPOCHS: Final = 1000
"""How far an adoption leaps ahead: an earlier router that still lives cannot grant past it before its flow is ended."""

TokenRow: TypeAlias = tuple[int, FinishReason | None, TokenLogprobs | None]


class Floor(Protocol):
    """What a flow asks of the dispatcher."""

    def queue_again(self, flow: "Flow") -> None: ...

    def leave_queue(self, flow: "Flow") -> None: ...

    def forget(self, flow: "Flow") -> None: ...

    def show(self, flow: "Flow", reader: Member) -> None: ...

    def hide(self, flow: "Flow") -> None: ...

    def next_target(self, flow: "Flow") -> Member | None:
        """Another decode worker for a refused or failed handoff, or None."""
        ...


class Flow:
    """One output of a request. `request` owns its siblings and the outbox; `state` is its journey's."""

    def __init__(
        self,
        floor: Floor,
        request: Request,
        *,
        sequence: SequenceId,
        choice: int,
        prompt: Prompt,
        sampling: SamplingParams,
        text: ChoiceText,
        record: Record,
    ) -> None:
        self._floor = floor
        self._writer = ChoiceWriter(request, choice=choice, text=text, record=record)
        self._order: StreamOrder[TokenRow] = StreamOrder(Epoch(0))
        self.request = request
        self.sequence = sequence
        self.choice = choice
        self.prompt = prompt
        self.sampling = sampling
        self.record = record
        self.state = State.QUEUED
        self.attempts = 0
        self.prefill: Member | None = None  # holds the sequence until a handoff commits
        self.decode: Member | None = None  # None while one worker does all
        self.target: Member | None = None  # where a migration goes
        self.why_moved = ""
        self.excluded: set[WorkerId] = set()

    @property
    def output(self) -> list[int]:
        """The tokens chosen so far, in order."""
        return self._writer.output

    @property
    def epoch(self) -> Epoch:
        """The current owner's epoch."""
        return self._order.epoch

    @property
    def owner(self) -> Member | None:
        """The worker that runs it now, as far as is known; None while it waits."""
        return self.prefill or self.decode

    @property
    def context_tokens(self) -> int:
        """All tokens it has: what a worker needs KV for before the next one is chosen."""
        return len(self.prompt.tokens) + len(self.output)

    # ------------------------------------------------------------ events

    def placed(self, decision: Placed, *, prefill: Member, decode: Member, now_s: float) -> None:
        """Workers have been chosen: start there."""
        self.attempts += 1
        context_tokens = self.context_tokens
        uncached = max(1, context_tokens - decision.cached_tokens)
        prefill.hold(self.sequence, prefill_tokens=uncached, context_tokens=context_tokens, now_s=now_s)
        self.prefill = prefill
        if decision.is_split:
            decode.hold(self.sequence, prefill_tokens=0, context_tokens=context_tokens, now_s=now_s)
            self.decode = decode
        record = self.record
        record.state, record.placed_s = "prefill", record.placed_s or now_s
        record.prefill_worker, record.decode_worker = prefill.name, decode.name
        record.decision = decision.reason
        record.cached_tokens = max(record.cached_tokens, min(decision.cached_tokens, record.prompt_tokens))
        self._apply(Event.PLACED_SPLIT if decision.is_split else Event.PLACED_ALONE, now_s)

    def adopted(self, copy: Copy, *, now_s: float) -> None:
        """A worker has it from an earlier router: it goes on there, and the client gets what it has missed."""
        self.attempts = 1
        self.decode = copy.member
        copy.member.hold(self.sequence, prefill_tokens=0, context_tokens=len(copy.state.tokens), now_s=now_s)
        self.record.state, self.record.decode_worker = "decode", copy.member.name
        self.record.decision = "adopted from an earlier router"
        self._apply(Event.ADOPTED, now_s)
        reason = self._writer.replay(copy.output, copy.finish, now_s=now_s)
        self._order.grant(Epoch(copy.state.epoch + ADOPTION_EPOCHS), next_index=len(self.output))
        self.record.epoch = self.epoch
        if reason is not None:
            self._finish(reason, Event.ENDED, now_s)
            return
        router, have = self.request.router, len(self.output)
        order = orders.adopt(self.sequence, copy.state.epoch, new_epoch=self.epoch, router=router, next_index=have)
        copy.member.link.send(order)

    def on_token(
        self,
        *,
        epoch: int,
        index: int,
        token: int,
        finish: FinishReason | None,
        logprobs: TokenLogprobs | None,
        now_s: float,
    ) -> None:
        """A token of some worker; in order or not, current or not."""
        for row in self._order.accept(epoch=epoch, index=index, row=(token, finish, logprobs)):
            if self.state not in journey.RUNNING:
                return  # an earlier row ended it, or sent it elsewhere
            self._emit(row, now_s)
        if self._order.is_overfull and self.state in journey.RUNNING:
            self.on_failed("its first tokens never arrived", now_s=now_s)

    def on_handoff(self, report: pb.HandoffReport, *, now_s: float) -> None:
        """The prefill worker reports how a handoff went. Late or stale reports change nothing."""
        if report.epoch != self.epoch or not journey.expects(self.state, Event.COMMITTED):
            return
        match report.outcome:
            case pb.HANDOFF_COMMITTED:
                self.record.handed_off(report, now_s=now_s)
                self._committed(now_s)
            case pb.HANDOFF_REFUSED:  # surely not taken over: the prefill worker still holds the sequence
                self._retarget(now_s)
            case _:  # the target may have taken it over unheard: nobody goes on under this epoch
                self._handoff_failed(report.reason, now_s)

    def _handoff_failed(self, why: str, now_s: float) -> None:
        if self.decode is not None:
            self.excluded.add(self.decode.info.worker)
        self.record.decision = f"{self.record.decision}; handoff failed: {why}"
        self._apply(Event.FAILED, now_s)

    def on_worker_lost(self, member: Member, *, now_s: float) -> None:
        """A worker this sequence was sent to is gone."""
        if member is self.decode and self.prefill is not None:
            self.decode = None
            if self.state is State.PREFILLING:
                self.excluded.add(member.info.worker)
                self._apply(Event.TARGET_LOST, now_s)
        elif member is self.target:
            self.target = None
            self.excluded.add(member.info.worker)
            self._apply(Event.TARGET_LOST, now_s)
        elif member in (self.prefill, self.decode):
            self.why_moved = "its worker was lost"
            self._apply(Event.OWNER_LOST, now_s)

    def move(self, target: Member, *, why: str, now_s: float) -> None:
        """Migrate it to `target` while it runs. Only when `can_move`."""
        self.prefill, self.decode = None, self.owner
        self.target, self.why_moved = target, why
        self.record.move = MoveBegun(now_s, self.record.decode_worker, target.name, why)
        target.hold(self.sequence, prefill_tokens=0, context_tokens=self.context_tokens, now_s=now_s)
        self._apply(Event.MOVE, now_s)

    @property
    def can_move(self) -> bool:
        """Whether one worker runs it and no move is under way."""
        return journey.expects(self.state, Event.MOVE)

    def restart(self, *, why: str, now_s: float) -> None:
        """Compute it again on another worker than its own, from the tokens it has."""
        if self.owner is not None and journey.expects(self.state, Event.OWNER_LOST):
            self.excluded.add(self.owner.info.worker)
            self.why_moved, self.attempts = why, self.attempts - 1  # our own wish: no worker has failed it
            self._apply(Event.OWNER_LOST, now_s)

    def on_migration(self, member: Member, report: pb.MigrationReport, *, now_s: float) -> None:
        """Its worker reports how a migration went."""
        is_expected = self.state is State.MOVING and report.epoch == self.epoch and member is self.decode
        is_whole = report.tokens == len(self.prompt.tokens) + len(self.output)
        if report.outcome == pb.MIGRATION_READY:
            if is_expected and is_whole:
                self.record.moved(report, source=member.name, why=self.why_moved, now_s=now_s)
                self.request.observer.migrated(report, self.record, self.request.traceparent, now_s=now_s)
                self._apply(Event.COPIED, now_s)
                return
            # An earlier token is still on its way from another worker, or the target is gone.
            member.link.send(orders.unfreeze(self.sequence, report.epoch))
        if not is_expected:
            return
        assert self.target is not None
        if report.outcome == pb.MIGRATION_UNSTARTED:
            self.restart(why=f"{self.why_moved}; nothing of it was computed yet", now_s=now_s)
            return
        if report.outcome == pb.MIGRATION_FAILED:
            self.excluded.add(self.target.info.worker)
        self.request.observer.migrated(report, self.record, self.request.traceparent, now_s=now_s)
        self._let_target_go()
        self._apply(Event.MOVE_OFF, now_s)

    def _let_target_go(self) -> None:
        if self.target is not None:
            self.target.release(self.sequence)
            self.target = None

    def on_failed(self, why: str, *, now_s: float, is_unstarted: bool = False) -> None:
        """A worker gave it up for a reason that another one may not have; before it began, that costs no attempt."""
        if not journey.expects(self.state, Event.FAILED):
            return
        self.attempts -= is_unstarted
        if self.owner is not None:
            self.excluded.add(self.owner.info.worker)
        self.record.decision = f"{self.record.decision}; gave up: {why}"
        self._apply(Event.FAILED, now_s)

    def end(self, reason: FinishReason, *, now_s: float, error: SluiceError | None = None) -> None:
        """The router ends it: client gone, deadline, stop string, error."""
        if self.state is State.DONE:
            return
        self.record.finish_reason = reason.value if error is None else error.code.value
        if error is not None:
            self.request.fail(error)
        self._apply(Event.ENDED, now_s)

    # ------------------------------------------------------------ effects

    def _apply(self, event: Event, now_s: float) -> None:
        self.state, effects = journey.advance(self.state, event)
        for effect in effects:
            match effect:
                case Effect.START:
                    self._start(now_s)
                case Effect.RETARGET:
                    self._send_target()
                case Effect.CANCEL:
                    self._cancel()
                case Effect.MIGRATE:
                    self._send_migrate()
                case Effect.GRANT:
                    self._grant()
                case Effect.QUEUE_AGAIN:
                    self._queue_again(now_s)
                case Effect.LEAVE_QUEUE:
                    self._floor.leave_queue(self)
                case Effect.CLOSE:
                    self._close(now_s)
                case _:
                    assert_never(effect)

    def _start(self, now_s: float) -> None:
        assert self.prefill is not None
        state = state_of(
            self.request.job,
            self.prompt,
            sequence=self.sequence,
            choice=self.choice,
            router=self.request.router,
            epoch=self.epoch,
            output=self.output,
            waited_s=now_s - self.record.accepted_s,
            traceparent=self.request.traceparent,
        )
        self.prefill.link.send(orders.start(state, None if self.decode is None else self.decode.target()))
        if self.prompt.images:
            self._floor.show(self, self.prefill)

    def _committed(self, now_s: float) -> None:
        if self.prefill is not None:
            self.prefill.release(self.sequence)
            self.prefill = None
        self.record.state = "decode"
        self._apply(Event.COMMITTED, now_s)

    def _retarget(self, now_s: float) -> None:
        assert self.prefill is not None
        if self.decode is not None:
            self.excluded.add(self.decode.info.worker)
            self.decode.release(self.sequence)
        self.decode = self._floor.next_target(self)
        if self.decode is None:
            self.record.decode_worker = self.prefill.name
            self._apply(Event.KEPT_HERE, now_s)
            return
        self.decode.hold(self.sequence, prefill_tokens=0, context_tokens=len(self.prompt.tokens), now_s=now_s)
        self.record.decode_worker = self.decode.name
        self._apply(Event.RETARGETED, now_s)

    def _send_target(self) -> None:
        assert self.prefill is not None
        target = None if self.decode is None else self.decode.target()
        self.prefill.link.send(orders.retarget(self.sequence, self.epoch, target))

    def _send_migrate(self) -> None:
        assert self.decode is not None
        assert self.target is not None
        self.decode.link.send(orders.migrate(self.sequence, self.epoch, self.target.target()))

    def _grant(self) -> None:
        """The target owns it from here: first it, then the source, hears of the next epoch."""
        source, target, epoch = self.decode, self.target, self.epoch
        assert source is not None
        assert target is not None
        self._order.grant(Epoch(epoch + 1), next_index=len(self.output))
        self.record.epoch = self.epoch
        target.link.send(orders.grant(self.sequence, epoch, new_epoch=self.epoch))
        source.cancel(self.sequence, epoch)
        source.moved_away(self.sequence, context_tokens=self.context_tokens)
        self.decode, self.target = target, None
        self.record.decode_worker = target.name

    def _cancel(self) -> None:
        for member in (self.prefill, self.decode, self.target):
            if member is not None:
                member.cancel(self.sequence, self.epoch)

    def _release(self) -> None:
        self._floor.hide(self)
        self._let_target_go()
        for member in (self.prefill, self.decode):
            if member is not None:
                member.release(self.sequence)
        self.prefill = self.decode = None

    def _queue_again(self, now_s: float) -> None:
        if self.owner is not None:
            self.record.restarted(source=self.owner.name, why=self.why_moved, now_s=now_s)
        self._release()
        self._order.grant(Epoch(self.epoch + 1), next_index=len(self.output))
        self.record.epoch = self.epoch
        self.record.state = "queued"
        if self.attempts >= self.request.attempts_max:
            what = f"the request was placed {self.attempts} times and lost its worker each time"
            self.end(FinishReason.ERROR, now_s=now_s, error=WorkerLostError(what))
            return
        self._floor.queue_again(self)

    def _close(self, now_s: float) -> None:
        self._release()
        record = self.record
        record.state = "finished"
        record.finished_s = now_s
        self.request.observer.sequence_ended(record, traceparent=self.request.traceparent, now_s=now_s)
        self._floor.forget(self)

    # ------------------------------------------------------------ tokens

    def _emit(self, row: TokenRow, now_s: float) -> None:
        token, finish, logprobs = row
        self._floor.hide(self)  # its prompt is computed: no image is waited for any more
        if finish is FinishReason.ERROR or finish is FinishReason.CANCELLED:
            self.on_failed(f"worker ended it: {finish.value}", now_s=now_s)
            return
        reason = self._writer.add(token, finish, logprobs, now_s=now_s)
        if len(self.output) == 1 and self.state is not State.PREFILLING:
            self.record.state = "decode"
        if reason is not None:
            # The worker knows of its own ends only, not of a stop string.
            self._finish(reason, Event.FINISHED if finish is not None else Event.ENDED, now_s)

    def _finish(self, reason: FinishReason, event: Event, now_s: float) -> None:
        self._writer.finish(reason)
        self._apply(event, now_s)
        self.request.outbox.close_choice()
