"""Plans are made again with more headroom where a replay broke the promise, and never more often than allowed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.planner.plan import Offer, Plan
from sluice.planner.problem import AS_COMPUTED, Headroom
from sluice.planner.solver import Outcome
from sluice.planner.throughput import Target
from sluice.planner.verification import ROUNDS_MAX, Attained, Round, chosen, undercut, verify
from sluice.planner.workload import Bucket, Workload

WORK = Workload(buckets=(Bucket(input_tokens=100, input_tokens_max=100, output_tokens=10, rate_per_s=1),))


def plan_with(headroom: Headroom) -> Plan:
    """A plan whose cost is its headroom."""
    return Plan(
        outcome=Outcome.OPTIMAL,
        pools=(),
        cost_per_h=headroom.prefill + headroom.decode,
        bound_per_h=0,
        offer=Offer(kinds=()),
        workload=WORK,
        served=WORK,
        target=Target(ttft_s=1, tpot_s=0.05),
        headroom=headroom,
        unreachable_share=0,
    )


class Truth:
    """A replay that keeps each objective from some headroom on."""

    def __init__(self, prefill: float, decode: float) -> None:
        self.prefill, self.decode = prefill, decode
        self.replays = 0

    def __call__(self, plan: Plan) -> Attained:
        self.replays += 1
        ttft = 1.0 if plan.headroom.prefill >= self.prefill else 0.5
        tpot = 1.0 if plan.headroom.decode >= self.decode else 0.5
        return Attained(both=min(ttft, tpot), ttft=ttft, tpot=tpot, deadlines=0, itl=0)


@pytest.fixture(autouse=True)
def plans_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans here have no pools: their headroom tells them apart."""
    monkeypatch.setattr("sluice.planner.verification._mix", lambda plan: plan.headroom)


@given(st.floats(0.5, 3), st.floats(0.5, 3))
def test_the_chosen_plan_is_the_cheapest_that_kept_its_promise_and_rounds_are_bounded(
    prefill: float, decode: float
) -> None:
    truth = Truth(prefill, decode)
    rounds = verify(plan_with, truth)
    best = chosen(rounds)
    assert 1 <= len(rounds) <= ROUNDS_MAX
    assert best is not None
    kept = [each.plan.cost_per_h for each in rounds if each.is_kept]
    assert best.is_kept == bool(kept)
    assert not kept or best.plan.cost_per_h == min(kept)


def test_only_the_objective_that_was_missed_gets_more_headroom() -> None:
    rounds = verify(plan_with, Truth(prefill=1.3, decode=1.0))
    assert [each.plan.headroom.decode for each in rounds] == [1.0] * len(rounds)
    assert rounds[-1].plan.headroom.prefill > 1.3
    assert rounds[-1].is_kept


def test_a_promise_kept_at_once_is_tried_with_less() -> None:
    best = chosen(verify(plan_with, Truth(prefill=0.8, decode=0.8)))
    assert best is not None
    assert 0.8 <= best.plan.headroom.prefill < 1


def test_a_mix_that_was_replayed_is_not_replayed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluice.planner.verification._mix", lambda plan: ())
    truth = Truth(prefill=0.1, decode=0.1)
    assert len(verify(plan_with, truth)) == ROUNDS_MAX
    assert truth.replays == 1


def test_a_promise_nobody_keeps_ends_after_the_last_round_with_the_best_attempt() -> None:
    rounds = verify(plan_with, Truth(prefill=100, decode=100), rounds_max=3)
    best = chosen(rounds)
    assert len(rounds) == 3
    assert best is not None
    assert not best.is_kept


def test_no_plan_gives_no_rounds() -> None:
    impossible = replace(plan_with(AS_COMPUTED), outcome=Outcome.IMPOSSIBLE)
    assert verify(lambda _: impossible, Truth(prefill=1, decode=1)) == []
    assert chosen([]) is None


def test_what_is_out_of_reach_is_not_part_of_the_promise() -> None:
    some_lost = replace(plan_with(AS_COMPUTED), unreachable_share=0.5)
    rounds = verify(lambda _: some_lost, Truth(prefill=9, decode=9), rounds_max=1)
    assert rounds[0].attained.both == 0.5
    assert rounds[0].is_kept


def test_a_simpler_fleet_that_looks_dearer_is_taken_when_it_needs_less_headroom() -> None:
    best = Round(plan=plan_with(AS_COMPUTED), attained=Truth(1, 1)(plan_with(AS_COMPUTED)))
    truth = Truth(prefill=0.7, decode=0.7)
    rounds = undercut(lambda headroom: replace(plan_with(headroom), cost_per_h=2.2 * headroom.prefill), truth, best)
    cheapest = chosen([best, *rounds])
    assert cheapest is not None
    assert cheapest.is_kept
    assert cheapest.plan.cost_per_h < best.plan.cost_per_h
    assert truth.replays == len(rounds) < ROUNDS_MAX  # what costs more is not replayed


def test_a_simpler_fleet_that_promises_less_is_no_alternative() -> None:
    best = Round(plan=plan_with(AS_COMPUTED), attained=Truth(1, 1)(plan_with(AS_COMPUTED)))
    less = replace(plan_with(AS_COMPUTED), cost_per_h=0.1, unreachable_share=0.1)
    assert undercut(lambda _: less, Truth(0, 0), best) == []
