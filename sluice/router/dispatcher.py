"""Owns every sequence in flight: admits, queues, places, and hands workers' messages to flows.

One event loop, no awaits: every method runs to its end, so nothing changes between checking
and acting. Clients' tasks read from the outbox of the Request they were given.
Next: `flow.py` for one sequence, `policy/policy.py` for the choice of workers.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from sluice.clock import Clock
from sluice.domain.ids import RequestId, RouterId, SequenceId
from sluice.domain.load import WorkerInfo
from sluice.domain.role import FinishReason, Role
from sluice.errors import (
    CancelledError,
    DeadlineError,
    InvalidRequestError,
    NoWorkerError,
    SluiceError,
)
from sluice.policy.admission import AdmissionQueue
from sluice.policy.policy import Policy, Unplaced
from sluice.policy.restraint import Restraint
from sluice.router.claims import Claims, Copy
from sluice.router.decisions import Decision, Decisions, Kind
from sluice.router.dispatch_limits import DispatchLimits
from sluice.router.door import Door
from sluice.router.encode_desk import EncodeDesk
from sluice.router.evacuation import Evacuations
from sluice.router.fleet import Fleet, Member
from sluice.router.flips import Flips
from sluice.router.flow import Flow
from sluice.router.flow_maker import FlowMaker
from sluice.router.flow_reader import reader_of
from sluice.router.job import Job
from sluice.router.observer import Observer
from sluice.router.output import Delivery
from sluice.router.peering import Peering
from sluice.router.records import Records
from sluice.router.reports import Reports
from sluice.router.request import Request
from sluice.router.targets import Targets, refusal
from sluice.router.tending import Tending
from sluice.router.worker_link import WorkerLink
from sluice.text.tokenizer import Tokenizer
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb

WHOLE: Final = frozenset({FinishReason.STOP.value, FinishReason.LENGTH.value})
_NO_COPIES: Final[Mapping[int, Copy]] = {}

_log = logging.getLogger(__name__)


class Dispatcher:
    """All flows of one router. Implements what `flow.Floor` asks for."""

    def __init__(
        self,
        *,
        router: RouterId,
        tokenizer: Tokenizer,
        fleet: Fleet,
        policy: Policy,
        limits: DispatchLimits,
        observer: Observer,
        clock: Clock,
    ) -> None:
        self.records = Records(limits.records_max)
        self.fleet = fleet
        self.observer = observer
        self._router = router
        self._maker = FlowMaker(router, tokenizer, self.records)
        self._limits = limits
        self._clock = clock
        self._flows: dict[SequenceId, Flow] = {}
        self._requests = 0
        self.door = Door(fleet.why_not_serving, limits.hold)
        self.decisions = Decisions(limits.records_max)
        self.targets = Targets(fleet, policy, self.decisions, clock)
        self.claims = Claims(fleet)
        self.evacuations = Evacuations(fleet, self._flows, self.targets)
        self.flips = Flips(fleet)
        self._tending = Tending(
            fleet=fleet,
            flows=self._flows,
            policy=policy,
            targets=self.targets,
            flips=self.flips,
            restraint=Restraint(limits.restraint),
            decisions=self.decisions,
            observer=observer,
        )
        self._peering = Peering(fleet)
        new, metrics = self._maker.new_sequence, observer.metrics
        self.desk = EncodeDesk(
            fleet, clock, router=router, metrics=metrics, new_sequence=new, ttft_s=limits.ttft_s, tpot_s=limits.tpot_s
        )
        self._reports = Reports(
            flows=self._flows,
            fleet=fleet,
            evacuations=self.evacuations,
            observer=observer,
            records=self.records,
            unread_tokens_max=limits.unread_tokens_max,
            end=self._end,
        )
        self._idle = asyncio.Event()
        self._idle.set()
        self._queue: AdmissionQueue[Flow] = AdmissionQueue(limits.admission)

    @property
    def sequences(self) -> int:
        """How many sequences are in flight, waiting ones included."""
        return len(self._flows)

    @property
    def waiting(self) -> int:
        """How many of them wait for a worker."""
        return len(self._queue)

    async def wait_idle(self) -> None:
        """Until no sequence is in flight."""
        await self._idle.wait()

    # ------------------------------------------------------------ clients

    async def copies_of(self, job: Job) -> Mapping[int, Copy]:
        """What workers have of a resumed request, by choice; an older stream of it here ends.

        Raises InvalidRequestError.
        """
        if not job.is_resumed:
            return _NO_COPIES
        for request in {flow.request for flow in self._flows.values() if flow.request.job.request == job.request}:
            self._end(request, FinishReason.CANCELLED, CancelledError("the client came back on another stream"))
        return await self.claims.ask(job)

    def submit(self, job: Job, delivery: Delivery, copies: Mapping[int, Copy] = _NO_COPIES) -> Request:
        """Accept a request. The caller reads its outbox and calls `release` in any case.

        Choices in `copies` go on where they are. Raises NoWorkerError when no worker serves,
        OverloadedError when there is too much to do.
        """
        now_s = self._clock.now_s()
        self._check_room(job)
        request = Request(
            job,
            router=self._router,
            delivery=delivery,
            attempts_max=self._limits.attempts_max,
            observer=self.observer,
        )
        request.deadline = asyncio.get_running_loop().call_later(job.timeout_s, self._time_out, request)
        self._requests += 1
        copies = {choice: copy for choice, copy in copies.items() if copy.member in self.fleet}
        flows = [
            self._maker.make(self, request, choice, copies.get(choice), now_s=now_s) for choice in range(job.choices)
        ]
        self._flows.update({flow.sequence: flow for flow in flows})
        self._idle.clear()
        request.open_sequences.update(flow.sequence for flow in flows)
        for flow in flows:
            if (copy := copies.get(flow.choice)) is None:
                self._queue.enter(flow, tokens=len(flow.prompt.tokens), now_s=now_s, slo=job.slo, tenant=job.tenant)
            else:
                flow.adopted(copy, now_s=now_s)
        self._pump(now_s)
        return request

    def _check_room(self, job: Job) -> None:
        try:
            self.door.check()
            tokens = job.prompt_tokens * job.n
            self._queue.check(sequences=job.choices, tokens=tokens, inflight_sequences=len(self._flows))
        except SluiceError as error:
            self.decisions.note(job, Decision(Kind.REFUSED, 0, 0.0, str(error)))
            self.observer.refused_at_door(job, error)
            raise

    def release(self, request: Request) -> None:
        """The client is done with the request, or gone: whatever still runs is cancelled everywhere."""
        if request.is_released:
            return
        request.is_released = True
        self._requests -= 1
        if request.deadline is not None:
            request.deadline.cancel()
        is_complete = not request.open_sequences
        self._end(request, FinishReason.CANCELLED, None)
        self.observer.request_ended(
            request.span,
            request.records,
            slo=request.job.slo,
            error=request.error,
            is_complete=is_complete,
            now_s=self._clock.now_s(),
        )

    # ------------------------------------------------------------ workers

    def join(self, info: WorkerInfo, link: WorkerLink) -> Member:
        """A worker dialled in. Raises IncompatiblePeerError, OverloadedError."""
        old = self.fleet.find(info.worker)
        if old is not None:
            old.link.close("replaced by a newer connection of the same worker")
            self.lose(old, "replaced")
        member = self.fleet.join(info, link, now_s=self._clock.now_s())
        _log.info("worker %s joined as %s on %s", info.worker, info.role.value, info.device)
        return member

    def lose(self, member: Member, why: str) -> None:
        """A worker is gone; its sequences continue elsewhere. Idempotent."""
        if not self.fleet.remove(member):
            return
        _log.info("worker %s left (%s) with %d sequences", member.name, why, len(member.sequences))
        self.claims.on_lost(member)
        self.desk.on_lost(member)
        now_s = self._clock.now_s()
        for sequence in sorted(member.sequences):
            self._flows[sequence].on_worker_lost(member, now_s=now_s)
        self._pump(now_s)

    def close(self, why: str) -> None:
        """Disconnect every worker; the router stops."""
        for member in list(self.fleet):
            member.link.close(why)

    def on_message(self, member: Member, message: pb.WorkerMessage) -> None:
        """Something a worker said. Raises InvalidRequestError if it makes no sense."""
        now_s = self._clock.now_s()
        member.heard_s = now_s
        ear = self.desk if member.info.role is Role.ENCODE else self._reports
        match message.WhichOneof("body"):
            case "tokens":
                if ear.on_tokens(member, message.tokens, now_s=now_s):
                    self._pump(now_s)
            case "heartbeat":
                self.fleet.beat(member, convert.load_from_wire(message.heartbeat), now_s=now_s)
                if message.heartbeat.HasField("roll"):
                    ear.on_roll(member, message.heartbeat.roll, now_s=now_s)
                self._step(now_s)
                self._pump(now_s)
            case "migration":
                self._reports.on_migration(member, message.migration, now_s=now_s)
                self._pump(now_s)
            case "handoff":
                ear.on_handoff(member, message.handoff, now_s=now_s)
                self._pump(now_s)
            case "failed":
                ear.on_failed(message.failed, now_s=now_s)
                self._pump(now_s)
            case "looked":
                self.desk.on_looked(member, message.looked)
            case "copies":
                self.claims.on_answer(member, message.copies)
            case "prefix":
                self._on_prefix(member, message.prefix)
            case "goodbye":
                member.link.close(message.goodbye.reason or "it said goodbye")
            case other:
                raise InvalidRequestError(field="body", problem=f"is {other}", remedy="register once, then report")

    def tick(self) -> None:
        """Time passes: silent workers, impatient sequences and lapsed expectations go. A few times a second."""
        now_s = self._clock.now_s()
        self.door.look()
        for member in self.fleet.silent(now_s=now_s):
            member.link.close("no heartbeat")
            self.lose(member, "no heartbeat")
        for flow in self._queue.expired(now_s=now_s):
            error = NoWorkerError("no worker had room in time", retry_after_s=max(1.0, self._queue.wait_estimate_s()))
            at_s = now_s - flow.record.accepted_s
            self.decisions.note(flow.request.job, Decision(Kind.REFUSED, flow.choice, at_s, str(error)))
            self._end(flow.request, FinishReason.ERROR, error)
        self.fleet.index.expire(now_s=now_s)
        self.desk.tick()
        self._peering.step()
        self._step(now_s)
        self._pump(now_s)
        self._gauge()

    def tend(self) -> None:
        """Let the policy move what runs, and change roles. About every `TEND_S`."""
        self._tending.step(now_s=self._clock.now_s())

    def _step(self, now_s: float) -> None:
        self.evacuations.step(now_s=now_s)
        for flip in self.flips.step(now_s=now_s):
            self.observer.metrics.flipped(is_done=not flip.problem)

    def _gauge(self) -> None:
        metrics = self.observer.metrics
        metrics.queue_requests.set(len({flow.request.job.request for flow in self._queue}))
        metrics.inflight_requests.set(self._requests)
        metrics.held_requests.set(self.door.held)
        for role in Role:
            ready = [member for member in self.fleet if member.is_ready and member.info.role is role]
            metrics.set_workers(role.value, workers=len(ready))

    # ------------------------------------------------------------ what flows ask

    def queue_again(self, flow: Flow) -> None:
        """The flow lost its worker: it waits before everyone else."""
        self._queue.return_to_front(flow, tokens=len(flow.prompt.tokens), now_s=self._clock.now_s())

    def leave_queue(self, flow: Flow) -> None:
        """The flow ended while waiting."""
        self._queue.leave(flow)

    def forget(self, flow: Flow) -> None:
        """The flow is over."""
        del self._flows[flow.sequence]
        self._reports.refused.discard(flow.sequence)
        if flow.record.finish_reason in WHOLE:
            self.targets.note_answer(len(flow.output))
        if not self._flows:
            self._idle.set()
        flow.request.open_sequences.discard(flow.sequence)
        if not flow.request.open_sequences and flow.request.deadline is not None:
            flow.request.deadline.cancel()

    def show(self, flow: Flow, reader: Member) -> None:
        """A flow with images was sent to `reader`: have them brought there."""
        self.desk.begin(reader_of(flow, self._clock), reader)

    def hide(self, flow: Flow) -> None:
        """Nobody reads its images any more."""
        self.desk.end(flow.sequence)

    def find(self, request: RequestId, choice: int) -> Flow | None:
        """A sequence in flight, by what its client calls it."""
        return next((f for f in self._flows.values() if f.record.request == request and f.choice == choice), None)

    def next_target(self, flow: Flow) -> Member | None:
        """Another decode worker for a refused or failed handoff, or None."""
        return self.targets.elsewhere_for(flow)

    # ------------------------------------------------------------ inside

    def _pump(self, now_s: float) -> None:
        """Place waiting sequences, in the queue's order, until one finds no room."""
        while (flow := self._queue.first()) is not None:
            started_s = self._clock.now_s()
            decision = self.targets.place(flow, now_s=now_s)
            if isinstance(decision, Unplaced):
                if flow.excluded:
                    flow.excluded.clear()  # nobody else is left: the same workers may be asked again
                    if flow.sequence in self._reports.refused:
                        self._reports.refused.discard(flow.sequence)
                        return  # but not at once: they have just said no
                    continue
                if not decision.is_final:
                    return
                self._end(flow.request, FinishReason.ERROR, refusal(decision))
                continue
            self._queue.take_first(now_s=now_s)
            # The decode worker holds the prompt only after a handoff; until then others must not count on it.
            self.fleet.index.expect(decision.prefill, flow.prompt.unit_hashes, now_s=now_s)
            prefill, decode = self.fleet.at(decision.prefill), self.fleet.at(decision.decode)
            flow.placed(decision, prefill=prefill, decode=decode, now_s=now_s)
            took_s = self._clock.now_s() - started_s
            traceparent, workers = flow.request.traceparent, self.fleet.table.workers
            self.observer.placed(
                flow.record, decision, workers=workers, traceparent=traceparent, took_s=took_s, now_s=now_s
            )

    def _on_prefix(self, member: Member, update: pb.PrefixUpdate) -> None:
        index, slot = self.fleet.index, member.slot
        if update.reset:
            index.reset(slot)
        index.removed(slot, convert.hashes_from_wire(update.removed))
        index.stored(slot, convert.hashes_from_wire(update.stored))

    def _time_out(self, request: Request) -> None:
        error = DeadlineError(f"the request was not finished within {request.job.timeout_s:g} s")
        self._end(request, FinishReason.ERROR, error)

    def _end(self, request: Request, reason: FinishReason, error: SluiceError | None) -> None:
        if error is not None:
            request.fail(error)
        if not request.open_sequences:
            return
        now_s = self._clock.now_s()
        for sequence in sorted(request.open_sequences):
            self._flows[sequence].end(reason, now_s=now_s, error=error)
        self._pump(now_s)
