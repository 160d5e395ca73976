"""What holds a plan's cost up: each bound is loosened alone, and the plan made again.

Objectives are loosened step by step until something is saved, supplies of GPUs all at once. The
comparisons with fleets of one class, and without handoffs, say what mixing and splitting bring.
Pure. Next: `plan.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from sluice.planner.plan import Offer, Plan, make_plan
from sluice.planner.solver import Outcome
from sluice.planner.throughput import Phase, Target

LOOSENED: Final = (1.1, 1.25, 1.5, 2.0, 3.0)  # factors on an objective, tried in this order
SAVING_MIN: Final = 1e-6  # dollars per hour that count as a saving


class Bound(Enum):
    """A constraint that can be loosened."""

    TTFT = "ttft"
    TPOT = "tpot"
    SUPPLY = "supply"
    TRUNK = "trunk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relief:
    """One bound loosened, and what that saves."""

    bound: Bound
    what: str  # "ttft 1 s -> 1.25 s", "more than 8 H100"
    cost_per_h: float
    saved_per_h: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """What a simpler fleet would cost; inf when it cannot serve the workload."""

    what: str  # "H100 only", "no handoffs"
    cost_per_h: float


def reliefs(plan: Plan) -> list[Relief]:
    """The bounds that bind, largest saving first. For an objective, the first loosening that saves."""
    found = [
        *_objective(plan, Bound.TTFT, plan.target.ttft_s),
        *_objective(plan, Bound.TPOT, plan.target.tpot_s),
        *_supplies(plan),
        *_trunks(plan),
    ]
    return sorted(found, key=lambda relief: relief.saved_per_h, reverse=True)


def simpler(offer: Offer) -> dict[str, Offer]:
    """Simpler fleets by name: every class alone, as many of it as there are; every class without handoffs; both."""
    alone = _alone(offer)
    whole = {f"{name}, no handoffs": _without_handoffs(each) for name, each in alone.items()}
    return {**alone, "no handoffs": _without_handoffs(offer), **whole}


def rivals(plan: Plan, offer: Offer) -> list[Rival]:
    """What simpler fleets cost under the plan's loads, as if nothing were scarce.

    A fleet that leaves more of the workload unreachable than the plan does cannot serve it.
    """
    plenty = replace(offer, gpus_max={})
    fleets = {**_alone(plenty), "no handoffs": _without_handoffs(plenty)}
    return [Rival(what=name, cost_per_h=_cost(plan, each)) for name, each in fleets.items()]


def _alone(offer: Offer) -> dict[str, Offer]:
    classes = sorted({kind.gpu.name for kind in offer.kinds})
    return {f"{name} only": offer.only(name) for name in classes} if len(classes) > 1 else {}


def _without_handoffs(offer: Offer) -> Offer:
    return replace(offer, phases=[Phase.MIXED])


def _cost(plan: Plan, offer: Offer) -> float:
    other = make_plan(plan.workload, offer, plan.target, headroom=plan.headroom)
    return other.cost_per_h if other.unreachable_share <= plan.unreachable_share + 1e-9 else float("inf")


def _relief(plan: Plan, bound: Bound, what: str, other: Plan) -> Sequence[Relief]:
    saved = plan.cost_per_h - other.cost_per_h
    if other.outcome is Outcome.IMPOSSIBLE or saved <= SAVING_MIN:
        return ()
    return (Relief(bound=bound, what=what, cost_per_h=other.cost_per_h, saved_per_h=saved),)


def _objective(plan: Plan, bound: Bound, now_s: float) -> Sequence[Relief]:
    for factor in LOOSENED:
        target = _with(plan.target, bound, now_s * factor)
        other = make_plan(plan.served, plan.offer, target, headroom=plan.headroom)
        relief = _relief(plan, bound, f"{bound.value} {now_s:g} s -> {now_s * factor:g} s", other)
        if relief:
            return relief
    return ()


def _with(target: Target, bound: Bound, limit_s: float) -> Target:
    return replace(target, ttft_s=limit_s) if bound is Bound.TTFT else replace(target, tpot_s=limit_s)


def _supplies(plan: Plan) -> list[Relief]:
    found: list[Relief] = []
    for name, most in plan.offer.gpus_max.items():
        freed = {key: value for key, value in plan.offer.gpus_max.items() if key != name}
        other = make_plan(plan.served, replace(plan.offer, gpus_max=freed), plan.target, headroom=plan.headroom)
        found += _relief(plan, Bound.SUPPLY, f"more than {most} {name}", other)
    return found


def _trunks(plan: Plan) -> Sequence[Relief]:
    if not plan.offer.trunks:
        return ()
    other = make_plan(plan.served, replace(plan.offer, trunks={}), plan.target, headroom=plan.headroom)
    return _relief(plan, Bound.TRUNK, "faster links between classes", other)
