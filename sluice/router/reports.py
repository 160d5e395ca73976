"""What workers say of sequences, handed to their flows; what nobody here knows is told to stop.

Tokens, the outcomes of handoffs and migrations, failures, and the roll that each heartbeat calls: which
sequences live on the worker for this router. Strangers in the roll are cancelled; a sequence that this
router believes there, and that two rolls miss, is placed anew. Decides nothing else: flows do.
Next: `flow.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sluice.domain.ids import SequenceId
from sluice.domain.role import FinishReason
from sluice.errors import CancelledError, InvalidRequestError, SluiceError
from sluice.router.evacuation import Evacuations
from sluice.router.fleet import Fleet, Member
from sluice.router.flow import Flow
from sluice.router.observer import Observer
from sluice.router.output import TokenLogprobs
from sluice.router.records import Records
from sluice.router.request import Request
from sluice.wire.gen import sluice_pb2 as pb

_FINISH: Final = {reason.value: reason for reason in FinishReason}
_NO_FINISHES: Final[Mapping[int, FinishReason]] = {}
_NO_LOGPROBS: Final[Mapping[int, TokenLogprobs]] = {}

End = Callable[[Request, FinishReason, SluiceError | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """One router's ear. `end` ends a whole request."""

    flows: Mapping[SequenceId, Flow]
    fleet: Fleet
    evacuations: Evacuations
    observer: Observer
    records: Records
    unread_tokens_max: int
    end: End
    refused: set[SequenceId] = field(default_factory=set)  # by a worker, before they began; nobody else asked yet

    def on_tokens(self, member: Member, step: pb.StepTokens, *, now_s: float) -> bool:
        """The tokens of one engine step; whether a sequence has finished."""
        finishes, logprobs = _NO_FINISHES, _NO_LOGPROBS
        if step.finish:
            finishes = {finish.row: _FINISH.get(finish.reason, FinishReason.ERROR) for finish in step.finish}
        if step.logprobs:
            logprobs = {row.row: TokenLogprobs.from_wire(row.logprobs) for row in step.logprobs}
        flows = self.flows
        columns = zip(step.sequence, step.epoch, step.index, step.token, strict=False)
        for row, (sequence, epoch, index, token) in enumerate(columns):
            flow = flows.get(SequenceId(sequence))
            if flow is None or epoch < flow.epoch:
                member.cancel_stray(sequence, epoch, now_s=now_s)
                continue
            flow.on_token(
                epoch=epoch,
                index=index,
                token=token,
                finish=finishes.get(row),
                logprobs=logprobs.get(row),
                now_s=now_s,
            )
            outbox = flow.request.outbox
            outbox.wake()
            if outbox.unread_tokens > self.unread_tokens_max and outbox.is_streaming:
                self.end(flow.request, FinishReason.CANCELLED, CancelledError("the client reads too slowly"))
        self.observer.count_gaps()
        return bool(finishes)

    def on_roll(self, member: Member, roll: pb.Roll, *, now_s: float) -> None:
        """What lives on a worker for us, as of its heartbeat."""
        present = dict(zip(roll.sequence, roll.epoch, strict=False))
        for sequence, epoch in present.items():
            flow = self.flows.get(SequenceId(sequence))
            if flow is None or epoch < flow.epoch:
                member.cancel_stray(sequence, epoch, now_s=now_s)
        believed = [flow for sequence in sorted(member.sequences) if (flow := self.flows[sequence]).owner is member]
        missing = {flow.sequence for flow in believed if present.get(flow.sequence) != flow.epoch}
        for sequence in member.forgotten(missing, heard=roll.heard):
            self.flows[sequence].on_failed("its worker has forgotten it", now_s=now_s)

    def on_migration(self, member: Member, report: pb.MigrationReport, *, now_s: float) -> None:
        """How a migration went."""
        flow = self.flows.get(SequenceId(report.sequence))
        if flow is not None:
            flow.on_migration(member, report, now_s=now_s)
        elif report.outcome == pb.MIGRATION_READY:
            member.cancel(report.sequence, report.epoch)  # it ended while it was being moved
        self.evacuations.step(now_s=now_s)

    def on_handoff(self, member: Member, report: pb.HandoffReport, *, now_s: float) -> None:
        """How a handoff went."""
        self.observer.handed_off(report)
        flow = self.flows.get(SequenceId(report.sequence))
        if report.outcome == pb.HANDOFF_REFUSED and (flow is None or report.epoch < flow.epoch):
            member.cancel(report.sequence, report.epoch)  # it holds the sequence until somebody says where to go
        if flow is not None:
            flow.on_handoff(report, now_s=now_s)
            if report.outcome == pb.HANDOFF_COMMITTED:
                self.evacuations.measure(flow.record, report)
            if flow.decode is not None and report.outcome == pb.HANDOFF_COMMITTED:
                self.fleet.index.expect(flow.decode.slot, flow.prompt.unit_hashes, now_s=now_s)
            return
        # A short answer may be over before the prefill worker reports how it got there.
        record = self.records.get(SequenceId(report.sequence))
        if record is not None and report.outcome == pb.HANDOFF_COMMITTED:
            record.handed_off(report, now_s=now_s)

    def on_failed(self, failed: pb.SequenceFailed, *, now_s: float) -> None:
        """A worker cannot go on with a sequence, or could not begin."""
        flow = self.flows.get(SequenceId(failed.sequence))
        if flow is None or failed.epoch != flow.epoch:
            return
        if failed.code == InvalidRequestError.code.value:
            error = InvalidRequestError(
                field=failed.field or "request", problem=failed.message, remedy="change it and send it again"
            )
            self.end(flow.request, FinishReason.ERROR, error)
        elif failed.code == CancelledError.code.value:
            self.end(flow.request, FinishReason.CANCELLED, CancelledError(failed.message))
        else:
            if failed.unstarted:
                self.refused.add(flow.sequence)
            flow.on_failed(failed.message, is_unstarted=failed.unstarted, now_s=now_s)
