"""Empties draining workers: moves what runs there, restarts what cannot be moved in time, says what became of each.

A worker drains because a person, an operator, a spot notice or SIGTERM said so; the router sees it
in the heartbeat and reacts here, a few moves at a time. Sequences that end first are simply done.
Decides which and when; `flow.py` carries a move out. Next: `targets.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sluice.domain.ids import SequenceId
from sluice.domain.role import Lifecycle
from sluice.policy.relocation import Rates, Way, choose_way
from sluice.router.fleet import Fleet, Member
from sluice.router.flow import Flow
from sluice.router.records import Record
from sluice.router.targets import Targets
from sluice.wire.gen import sluice_pb2 as pb

MOVES_MAX: Final = 32
"""Migrations away from one worker at a time: more would only share its link."""

RESTART_MARGIN_S: Final = 1.0
"""Before its deadline a worker's last sequences are restarted elsewhere rather than killed with it."""


@dataclass(slots=True)
class Evacuation:
    """One worker's drain, seen by this router."""

    member: Member
    watched: dict[SequenceId, Flow] = field(default_factory=dict)
    outcomes: list[pb.DrainOutcome] = field(default_factory=list)

    def note(self) -> None:
        """Write down what became of sequences that have left."""
        for sequence in self.member.sequences:
            assert sequence in self.watched, "watch() saw every sequence"
        for sequence, flow in list(self.watched.items()):
            if sequence in self.member.sequences:
                continue
            del self.watched[sequence]
            self.outcomes.append(_outcome(flow, self.member.name))


class Evacuations:
    """Every drain under way."""

    def __init__(self, fleet: Fleet, flows: Mapping[SequenceId, Flow], targets: Targets) -> None:
        self._fleet = fleet
        self._flows = flows
        self._targets = targets
        self._rates = Rates()
        self._under_way: dict[int, Evacuation] = {}  # by slot

    def measure(self, record: Record, report: pb.HandoffReport) -> None:
        """Learn from a handoff what copying and computing a token cost here."""
        copied = record.prompt_tokens - report.cached_tokens
        rates = self._rates.with_copy(tokens=copied, seconds=report.transfer_s)
        computed = record.prompt_tokens - record.cached_tokens
        self._rates = rates.with_prefill(tokens=computed, seconds=record.first_token_s - record.placed_s)

    def of(self, member: Member) -> Evacuation:
        """The drain of a worker; begun if there is none."""
        evacuation = self._under_way.get(member.slot)
        if evacuation is None or evacuation.member is not member:
            evacuation = self._under_way[member.slot] = Evacuation(member)
        return evacuation

    def step(self, *, now_s: float) -> None:
        """Start moves where workers drain. Call often: it looks at draining workers only."""
        for member in self._fleet:
            if member.load.lifecycle is Lifecycle.DRAINING:
                self._step(self.of(member), now_s=now_s)
            elif member.slot in self._under_way:
                self.settle(self.of(member))
                if member.is_ready:
                    del self._under_way[member.slot]  # it admits again

    def settle(self, evacuation: Evacuation) -> None:
        """Write down what has left by now: a worker may say that it is drained before the next step looks."""
        self._watch(evacuation)
        evacuation.note()

    def _step(self, evacuation: Evacuation, *, now_s: float) -> None:
        member = evacuation.member
        flows = self._watch(evacuation)
        room = MOVES_MAX - sum(flow.target is not None for flow in flows)
        is_late = 0.0 < member.drain_left_s(now_s=now_s) < RESTART_MARGIN_S
        for flow in flows:
            if flow.owner is not member:
                continue  # it is only the target of a move, which its refusal ends
            if is_late and self._targets.elsewhere_for(flow) is not None:
                flow.restart(why="drain deadline", now_s=now_s)
            elif flow.can_move and room > 0:
                room -= self._move(flow, now_s=now_s)
        evacuation.note()

    def _watch(self, evacuation: Evacuation) -> list[Flow]:
        """What is on the worker now; some of it may have been sent before the worker said that it drains."""
        flows = [self._flows[sequence] for sequence in sorted(evacuation.member.sequences)]
        evacuation.watched.update({flow.sequence: flow for flow in flows})
        return flows

    def _move(self, flow: Flow, *, now_s: float) -> bool:
        target = self._targets.elsewhere_for(flow)
        if target is None:
            flow.excluded.clear()  # workers that failed it may be asked again at the next step
            return False
        tokens = flow.context_tokens
        cached = self._fleet.index.match(flow.prompt.unit_hashes).get(target.slot, 0)
        if choose_way(self._rates, tokens=tokens, cached_tokens=cached) is Way.RECOMPUTE:
            flow.restart(why="drain; computing it again is cheaper", now_s=now_s)
        else:
            flow.move(target, why="drain", now_s=now_s)
        return True


def _outcome(flow: Flow, worker: str) -> pb.DrainOutcome:
    record = flow.record
    latest = next((move for move in reversed(record.moves) if move.from_worker == worker), None)
    if latest is not None:
        kind, detail = latest.how, f"to {latest.to_worker}" if latest.to_worker else latest.why
    elif record.finish_reason in {"stop", "length", "cancelled"}:
        kind, detail = "finished", record.finish_reason
    elif record.finish_reason:
        kind, detail = "failed", record.finish_reason
    else:
        kind, detail = "handed off", record.decode_worker
    return pb.DrainOutcome(request_id=record.request, choice=record.choice, outcome=kind, detail=detail)
