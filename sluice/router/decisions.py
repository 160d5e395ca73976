"""What was decided about the latest requests, and why: kept in numbers, for people who ask.

Placements with the candidates that were weighed, waits, refusals, other decode workers, moves. Workers'
names are looked up when a decision is made: a slot may be somebody else's later. Decides nothing.
Next: `policy/policy.py` for what a candidate is; `cli/explain.py` shows this.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from sluice.domain.ids import RequestId
from sluice.policy.fleet_table import FleetTable
from sluice.policy.policy import Candidate, Placed, Unplaced
from sluice.router.job import Job
from sluice.wire.gen import sluice_pb2 as pb

DECISIONS_KEPT: Final = 32
"""Of one request, the first ones: what came later is in its record as well."""


class Kind(Enum):
    """What was decided."""

    PLACED = "placed"
    WAITS = "waits"
    REFUSED = "refused"
    TARGET = "decode worker"  # where it could go on decoding, asked for a handoff or a move
    MOVE = "move"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision about one choice of a request. `workers` are the candidates', in their order."""

    kind: Kind
    choice: int
    at_s: float  # since the request was accepted
    reason: str
    binding: str = ""
    candidates: Sequence[Candidate] = ()
    workers: Sequence[tuple[str, str]] = ()
    cached_tokens: int = 0

    def to_wire(self) -> pb.Decision:
        """As `sluice explain` gets it."""
        rows = [
            pb.CandidateRow(
                prefill_worker=prefill,
                decode_worker=decode,
                ttft_s=one.ttft_s,
                tpot_s=one.tpot_s,
                cost=one.cost,
                terms=dict(one.terms),
            )
            for one, (prefill, decode) in zip(self.candidates, self.workers, strict=True)
        ]
        return pb.Decision(
            kind=self.kind.value,
            choice=self.choice,
            at_s=self.at_s,
            reason=self.reason,
            binding=self.binding,
            cached_tokens=self.cached_tokens,
            candidates=rows,
        )


@dataclass(slots=True)
class Explained:
    """One request's objectives and what was decided about it."""

    slo_class: str
    ttft_s: float
    tpot_s: float
    prompt_tokens: int
    decisions: list[Decision]


class Decisions:
    """The latest `requests_max` requests'."""

    def __init__(self, requests_max: int) -> None:
        self._requests_max = requests_max
        self._requests: OrderedDict[RequestId, Explained] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    def of(self, request: RequestId) -> Explained | None:
        """What is remembered of a request."""
        return self._requests.get(request)

    def answered(
        self, job: Job, choice: int, answer: Placed | Unplaced, table: FleetTable, *, kind: Kind, at_s: float
    ) -> None:
        """A policy answered. Waits in a row are one."""
        names = table.workers
        workers = [(names[one.prefill], names[one.decode]) for one in answer.candidates]
        if isinstance(answer, Unplaced):
            kind = Kind.REFUSED if answer.is_final and kind is Kind.PLACED else Kind.WAITS
            cached_tokens = 0
        else:
            cached_tokens = answer.cached_tokens
        self.note(
            job,
            Decision(kind, choice, at_s, answer.reason, answer.binding, answer.candidates, workers, cached_tokens),
        )

    def note(self, job: Job, decision: Decision) -> None:
        """Remember a decision."""
        known = self._requests.get(job.request)
        if known is None:
            slo = job.slo
            known = self._requests[job.request] = Explained(slo.name, slo.ttft_s, slo.tpot_s, job.prompt_tokens, [])
            if len(self._requests) > self._requests_max:
                self._requests.popitem(last=False)
        decisions = known.decisions
        latest = decisions[-1] if decisions else None
        is_again = latest is not None and (latest.kind, latest.choice) == (decision.kind, decision.choice)
        if is_again and decision.kind is Kind.WAITS:
            decisions[-1] = decision
        elif len(decisions) < DECISIONS_KEPT:
            decisions.append(decision)
