"""What the policy changes while nothing arrives: asks it every 100 ms, carries out what it may.

Moves are live migrations and flips are changes of role, by the same machinery that drains and people
use. Which wishes are carried out `policy/restraint.py` decides; why a wish was made goes into the
request's record and the log. Next: `policy/policy.py` for what a policy sees, `flips.py`.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from sluice.domain.ids import SequenceId
from sluice.policy.policy import Flip, Move, Policy, Running
from sluice.policy.restraint import WISHES_MAX, Held, InMotion, Restraint
from sluice.policy.running import RunningWhenRead
from sluice.router.decisions import Decision, Decisions, Kind
from sluice.router.fleet import Fleet
from sluice.router.flips import Flips
from sluice.router.flow import Flow
from sluice.router.journey import State
from sluice.router.observer import Observer
from sluice.router.targets import Targets
from sluice.telemetry.metric_table import WishKind

TEND_S: Final = 0.1
FLIP_DEADLINE_S: Final = 30.0
"""For emptying a worker before its role changes; what is left then is computed again elsewhere."""

_DECODING: Final = (State.ALONE, State.DECODING, State.MOVING)

_log = logging.getLogger(__name__)


class Tending:
    """One router's."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        flows: Mapping[SequenceId, Flow],
        policy: Policy,
        targets: Targets,
        flips: Flips,
        restraint: Restraint,
        observer: Observer,
        decisions: Decisions,
    ) -> None:
        self._fleet = fleet
        self._flows = flows
        self._policy = policy
        self._targets = targets
        self._flips = flips
        self._restraint = restraint
        self._observer = observer
        self._decisions = decisions

    def step(self, *, now_s: float) -> None:
        """Ask, and begin what may begin now."""
        table = self._fleet.table
        self._restraint.look(table, now_s=now_s)
        running = RunningWhenRead(lambda: self._running(now_s=now_s))
        wishes = self._policy.tend(table, running, now_s=now_s)[:WISHES_MAX]
        moves = [wish for wish in wishes if isinstance(wish, Move)]
        if moves:
            self._move(moves, now_s=now_s)
        for wish in wishes:
            if isinstance(wish, Flip):
                self._flip(wish, now_s=now_s)

    def _running(self, *, now_s: float) -> list[Running]:
        return [
            Running(
                sequence=flow.sequence,
                slot=flow.owner.slot,
                context_tokens=flow.context_tokens,
                output_tokens=len(flow.output),
                slo=flow.request.job.slo,
                worst_gap_s=max(flow.record.itl_max_s, now_s - flow.record.last_token_s),
                is_moving=flow.target is not None,
            )
            for flow in self._flows.values()
            if flow.state in _DECODING and flow.owner is not None and flow.output
        ]

    def _move(self, wishes: list[Move], *, now_s: float) -> None:
        flows = [flow for wish in wishes if (flow := self._flows.get(wish.sequence)) is not None]
        known = {
            flow.sequence: replace(in_motion(flow), barred=self._targets.barred_for(flow))
            for flow in flows
            if flow.owner is not None
        }
        under_way = [in_motion(flow) for flow in self._flows.values() if flow.target is not None]
        held = self._restraint.moves(wishes, self._fleet.table, known, under_way=under_way, now_s=now_s)
        for wish, why_not in zip(wishes, held, strict=True):
            self._observer.wished(WishKind.MOVE, why_not)
            if why_not is None:
                flow, target = self._flows[wish.sequence], self._fleet.at(wish.to)
                _log.info("request %s moves to %s: %s", flow.record.request, target.name, wish.why)
                why, at_s = f"to {target.name}: {wish.why}", now_s - flow.record.accepted_s
                self._decisions.note(flow.request.job, Decision(Kind.MOVE, flow.choice, at_s, why))
                flow.move(target, why=wish.why, now_s=now_s)

    def _flip(self, wish: Flip, *, now_s: float) -> None:
        flipping = {flip.member.slot for flip in self._flips}
        why_not: Held | None = self._restraint.flip(wish, self._fleet.table, flipping=flipping, now_s=now_s)
        self._observer.wished(WishKind.FLIP, why_not)
        if why_not is None:
            member = self._fleet.at(wish.slot)
            self._flips.begin(member, wish.role, deadline_s=FLIP_DEADLINE_S, why=wish.why, now_s=now_s)


def in_motion(flow: Flow) -> InMotion:
    """A sequence that some worker runs."""
    assert flow.owner is not None
    target = None if flow.target is None else flow.target.slot
    return InMotion(slot=flow.owner.slot, context_tokens=flow.context_tokens, target=target, can_move=flow.can_move)
