"""What the router counts and traces about requests: one place, so that the others only say what happened.

Decides nothing. Gaps between tokens are collected per message and counted together; spans are
built only for requests that are traced. Names: `telemetry/metric_table.py`,
`telemetry/attributes.py`. Next: `dispatcher.py`, who calls it.
"""

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Final

from sluice.clock import wall_ns
from sluice.domain.slo import SloClass
from sluice.errors import Code, SluiceError
from sluice.policy.policy import Placed
from sluice.policy.restraint import Held
from sluice.router.job import Job
from sluice.router.records import Record
from sluice.telemetry import attributes, tracing
from sluice.telemetry.attributes import AttributeValue, SpanName
from sluice.telemetry.metric_table import HandoffResult, MigrationResult, Objective, Outcome, PlacementKind, WishKind
from sluice.telemetry.metrics import RouterMetrics
from sluice.telemetry.span import Span
from sluice.wire.gen import sluice_pb2 as pb

_log = logging.getLogger(__name__)

_NS: Final = 1_000_000_000
_HANDOFFS: Final = {
    pb.HANDOFF_COMMITTED: HandoffResult.COMMITTED,
    pb.HANDOFF_REFUSED: HandoffResult.REFUSED,
}
_MIGRATIONS: Final = {
    pb.MIGRATION_READY: MigrationResult.MOVED,
    pb.MIGRATION_REFUSED: MigrationResult.REFUSED,
    pb.MIGRATION_FAILED: MigrationResult.FAILED,
}
_OUTCOMES: Final = {
    Code.INVALID_ARGUMENT: Outcome.INVALID,
    Code.NOT_FOUND: Outcome.INVALID,
    Code.TOO_LARGE: Outcome.INVALID,
    Code.RESOURCE_EXHAUSTED: Outcome.REFUSED,
    Code.UNAVAILABLE: Outcome.REFUSED,
    Code.CANCELLED: Outcome.CANCELLED,
}
"""Codes not listed are failures of ours."""


class Observer:
    """Counts into one RouterMetrics. One event loop."""

    def __init__(self, metrics: RouterMetrics, *, model: str) -> None:
        self.metrics = metrics
        self.gaps_s: list[float] = []  # between tokens of the message being read; flows append
        self._model = model

    # ------------------------------------------------------------ requests

    @contextlib.contextmanager
    def refusals(self) -> Iterator[None]:
        """Count a request that does not get past the door: wrap everything up to its acceptance."""
        try:
            yield
        except SluiceError as error:
            outcome = _OUTCOMES.get(error.code, Outcome.FAILED)
            missed = () if outcome is Outcome.INVALID else tuple(Objective)
            self.metrics.ended(outcome, request_s=0.0, missed=missed)
            raise

    def open_span(self, job: Job) -> Span:
        """The span of an accepted request; inert when it is not traced."""
        span = tracing.start_trace(SpanName.REQUEST, parent=job.traceparent)
        if not span.is_recording:
            return span
        sampling = job.sampling
        facts: dict[str, AttributeValue] = {
            attributes.OPERATION_NAME: job.operation,
            attributes.PROVIDER_NAME: attributes.PROVIDER,
            attributes.REQUEST_MODEL: self._model,
            attributes.RESPONSE_MODEL: self._model,
            attributes.REQUEST_MAX_TOKENS: sampling.max_tokens,
            attributes.REQUEST_TEMPERATURE: sampling.temperature,
            attributes.REQUEST_TOP_P: sampling.top_p,
            attributes.REQUEST_SEED: str(sampling.seed),
            attributes.REQUEST_CHOICES: job.n,
            attributes.RESPONSE_ID: job.request,
            attributes.REQUEST_ID: job.request,
            attributes.INPUT_TOKENS: job.prompt_tokens,
            attributes.SLO_CLASS: job.slo.name,
        }
        span.describe(facts)
        return span

    def refused_at_door(self, job: Job, error: SluiceError) -> None:
        """A request that is understood is not accepted: its trace is that."""
        self.open_span(job).end({attributes.DECISION: str(error)}, error=error.code.value)

    def request_ended(
        self,
        span: Span,
        records: list[Record],
        *,
        slo: SloClass,
        error: SluiceError | None,
        is_complete: bool,
        now_s: float,
    ) -> None:
        """An accepted request is over. `is_complete`: every choice reached its end. Goodput is as `slo` promises."""
        ttft_s = min((record.ttft_s for record in records if record.first_token_s), default=None)
        tpots = [record.tpot_s for record in records if record.output_tokens > 1]
        tpot_s = sum(tpots) / len(tpots) if tpots else None
        if error is not None:
            outcome = _OUTCOMES.get(error.code, Outcome.FAILED)
        else:
            outcome = Outcome.COMPLETED if is_complete else Outcome.CANCELLED
        request_s = now_s - records[0].accepted_s
        self.metrics.ended(outcome, request_s=request_s, tpot_s=tpot_s, missed=_missed(slo, outcome, ttft_s, tpot_s))
        if outcome in {Outcome.FAILED, Outcome.REFUSED}:
            _log.warning("request failed: %s", error, extra={"fields": {"request": records[0].request}})
        if span.is_recording:
            facts: dict[str, AttributeValue] = {
                attributes.OUTPUT_TOKENS: sum(record.output_tokens for record in records),
                attributes.CACHED_TOKENS: sum(record.cached_tokens for record in records),
                attributes.RESPONSE_FINISH_REASONS: [record.finish_reason for record in records],
                attributes.PREFILL_WORKER: records[0].prefill_worker,
                attributes.DECODE_WORKER: records[0].decode_worker,
            }
            if ttft_s is not None:
                facts[attributes.TTFT_S] = ttft_s
            if outcome is Outcome.REFUSED:
                facts[attributes.DECISION] = str(error)
            span.end(facts, error=None if error is None else error.code.value)

    # ------------------------------------------------------------ sequences

    def placed(
        self, record: Record, decision: Placed, *, workers: Sequence[str], traceparent: str, took_s: float, now_s: float
    ) -> None:
        """A sequence got its workers; deciding took `took_s`. `workers` are names by slot."""
        kind = PlacementKind.DISAGGREGATED if decision.is_split else PlacementKind.COLOCATED
        self.metrics.placed(kind, queue_s=now_s - record.accepted_s)
        if not traceparent:
            return
        end_ns = wall_ns()
        start_ns = end_ns - round(took_s * _NS)
        facts = _identity(record)
        queued_ns = start_ns - round((now_s - record.accepted_s) * _NS)
        tracing.record_span(SpanName.QUEUE, parent=traceparent, start_ns=queued_ns, end_ns=start_ns, attributes=facts)
        facts[attributes.DECISION] = decision.reason
        facts |= _weighed(decision, workers)
        facts[attributes.PREFILL_WORKER] = record.prefill_worker
        facts[attributes.DECODE_WORKER] = record.decode_worker
        tracing.record_span(SpanName.PLACEMENT, parent=traceparent, start_ns=start_ns, end_ns=end_ns, attributes=facts)

    def first_token(self, record: Record) -> None:
        """A sequence's first token came."""
        if record.choice == 0:
            self.metrics.prompt(prompt_tokens=record.prompt_tokens, cached_tokens=record.cached_tokens)
        self.metrics.first_token(ttft_s=record.ttft_s)

    def count_gaps(self) -> None:
        """The message has been read."""
        if self.gaps_s:
            self.metrics.more_tokens(self.gaps_s)
            self.gaps_s.clear()

    def handed_off(self, report: pb.HandoffReport) -> None:
        """A prefill worker reported how a handoff went."""
        self.metrics.handed_off(_HANDOFFS.get(report.outcome, HandoffResult.FAILED))

    def migrated(self, report: pb.MigrationReport, record: Record, traceparent: str, *, now_s: float) -> None:
        """A worker reported how a migration went; one that had nothing to copy is no migration."""
        result = _MIGRATIONS.get(report.outcome)
        if result is None:
            return
        self.metrics.migrated(result, frozen_s=report.frozen_s)
        move = record.move
        if not traceparent or move is None:
            return
        facts = _identity(record)
        facts[attributes.DECISION] = move.why
        facts[attributes.MOVED_FROM], facts[attributes.MOVED_TO] = move.source, move.target
        facts[attributes.MOVE_OUTCOME], facts[attributes.FROZEN_S] = result.value, report.frozen_s
        end_ns = wall_ns()
        start_ns = end_ns - round((now_s - move.at_s) * _NS)
        tracing.record_span(SpanName.MOVE, parent=traceparent, start_ns=start_ns, end_ns=end_ns, attributes=facts)

    def wished(self, kind: WishKind, held: Held | None) -> None:
        """The policy wished to change something; `held` says why it is not carried out now."""
        self.metrics.wished(kind, "begun" if held is None else held.value)

    def sequence_ended(self, record: Record, *, traceparent: str, now_s: float) -> None:
        """A sequence is over: its decode span is known now."""
        if not traceparent or not record.first_token_s:
            return
        end_ns = wall_ns()
        facts = _identity(record)
        facts[attributes.EPOCH] = record.epoch
        facts[attributes.OUTPUT_TOKENS] = record.output_tokens
        facts[attributes.TPOT_S] = record.tpot_s
        start_ns = end_ns - round((now_s - record.first_token_s) * _NS)
        tracing.record_span(SpanName.DECODE, parent=traceparent, start_ns=start_ns, end_ns=end_ns, attributes=facts)


def _weighed(decision: Placed, workers: Sequence[str]) -> dict[str, AttributeValue]:
    lines = []
    for one in decision.candidates:
        terms = ", ".join(f"{name} {value:.3g}" for name, value in one.terms.items() if value)
        where = f"{workers[one.prefill]} > {workers[one.decode]}"
        lines.append(f"{where}: TTFT {one.ttft_s:.3g} s, TPOT {one.tpot_s:.3g} s, cost {one.cost:.4g} ({terms})")
    facts: dict[str, AttributeValue] = {attributes.CANDIDATES: lines}
    if decision.binding:
        facts[attributes.BINDING] = decision.binding
    if lines and not math.isnan(decision.candidates[0].ttft_s):
        facts[attributes.PREDICTED_TTFT_S] = decision.candidates[0].ttft_s
        facts[attributes.PREDICTED_TPOT_S] = decision.candidates[0].tpot_s
    return facts


def _identity(record: Record) -> dict[str, AttributeValue]:
    return {attributes.REQUEST_ID: record.request, attributes.SEQUENCE: str(record.sequence)}


def _missed(slo: SloClass, outcome: Outcome, ttft_s: float | None, tpot_s: float | None) -> tuple[Objective, ...]:
    if outcome in {Outcome.CANCELLED, Outcome.INVALID}:
        return ()
    if outcome is not Outcome.COMPLETED or ttft_s is None:
        return tuple(Objective)
    missed = []
    if ttft_s > slo.ttft_s:
        missed.append(Objective.TTFT)
    if tpot_s is not None and tpot_s > slo.tpot_s:
        missed.append(Objective.TPOT)
    return tuple(missed)
