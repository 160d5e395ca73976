"""Plan, replay, replan: the loop that ends with the cheapest plan a replay confirms.

The analytic loads are steady-state approximations; a replay of the real arrivals shows what they
miss. The replay comes in as a function, so this package knows no simulator. Pure but for
that function. Next: `plan.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from sluice.planner.plan import Plan
from sluice.planner.problem import AS_COMPUTED, Headroom
from sluice.planner.solver import Outcome

ROUNDS_MAX: Final = 6
STEP: Final = 1.15  # what one round changes a phase's headroom by
COST_STEP: Final = 1e-6  # dollars per hour that make a plan cheaper
KEPT_MIN: Final = 0.99  # of the promise, that a replay must reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Attained:
    """Shares of all requests of a replay; refused ones count as misses."""

    both: float  # met TTFT and mean TPOT: what is promised
    ttft: float
    tpot: float
    deadlines: float  # every token by its own deadline; reported, not promised
    itl: float  # P99 gap within its limit; reported, not promised


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One plan and what its replay showed."""

    plan: Plan
    attained: Attained

    @property
    def is_kept(self) -> bool:
        """Whether the replay reached the promise."""
        return self.attained.both >= KEPT_MIN * self.plan.promise


def verify(
    plan_with: Callable[[Headroom], Plan], replay: Callable[[Plan], Attained], *, rounds_max: int = ROUNDS_MAX
) -> list[Round]:
    """Rounds in order; empty when there is no plan at all. `chosen` picks from them.

    A round that breaks its promise is followed by one with more headroom where it was missed; one that keeps
    it at the first try by one with less, until that fails: analytic headroom may be too careful too.
    """
    rounds: list[Round] = []
    headroom = AS_COMPUTED
    while len(rounds) < rounds_max:
        plan = plan_with(headroom)
        if plan.outcome is Outcome.IMPOSSIBLE:
            break
        same = next((each for each in rounds if _mix(each.plan) == _mix(plan)), None)
        rounds.append(Round(plan=plan, attained=same.attained if same else replay(plan)))
        following = next_headroom(rounds)
        if following is None:
            break
        headroom = following
    return rounds


def undercut(
    plan_with: Callable[[Headroom], Plan],
    replay: Callable[[Plan], Attained],
    best: Round,
    *,
    rounds_max: int = ROUNDS_MAX,
) -> list[Round]:
    """Rounds of a simpler fleet that costs less than `best` and promises as much, with ever less headroom.

    The loads are estimates, and wrong by more for some mixes than for others: what looks dearer may need
    so much less headroom that it is cheaper. Only what would be cheaper is replayed.
    """
    rounds: list[Round] = []
    headroom, cost_max = AS_COMPUTED, best.plan.cost_per_h
    for _ in range(rounds_max):
        plan = plan_with(headroom)
        if plan.outcome is Outcome.IMPOSSIBLE or plan.promise < best.plan.promise - 1e-9:
            break
        if plan.cost_per_h < cost_max - COST_STEP:
            rounds.append(Round(plan=plan, attained=replay(plan)))
            if not rounds[-1].is_kept:
                break
            cost_max = plan.cost_per_h
        headroom = Headroom(prefill=headroom.prefill / STEP, decode=headroom.decode / STEP)
    return rounds


def next_headroom(rounds: list[Round]) -> Headroom | None:
    """What to try after these rounds; None when the search is over."""
    last = rounds[-1]
    now = last.plan.headroom
    if last.is_kept:
        if any(not each.is_kept for each in rounds):
            return None  # came from too little: this is the first that holds
        return Headroom(prefill=now.prefill / STEP, decode=now.decode / STEP)
    if any(each.is_kept for each in rounds):
        return None  # came from enough: the one before was the cheapest
    promise = last.plan.promise
    is_ttft_short = last.attained.ttft < promise
    is_tpot_short = last.attained.tpot < promise
    if not is_ttft_short and not is_tpot_short:
        return Headroom(prefill=now.prefill * STEP, decode=now.decode * STEP)
    return replace(
        now,
        prefill=now.prefill * STEP if is_ttft_short else now.prefill,
        decode=now.decode * STEP if is_tpot_short else now.decode,
    )


def chosen(rounds: list[Round]) -> Round | None:
    """The cheapest round that kept its promise; else the one that attained most; None of none."""
    kept = [each for each in rounds if each.is_kept]
    if kept:
        return min(kept, key=lambda each: each.plan.cost_per_h)
    return max(rounds, key=lambda each: each.attained.both, default=None)


def _mix(plan: Plan) -> tuple[tuple[str, str, int], ...]:
    return tuple((pool.phase.value, pool.kind.name, pool.replicas) for pool in plan.pools)
