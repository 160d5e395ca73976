"""The joint policy: what must hold on any fleet, and the cases it was made for."""

from dataclasses import replace
from typing import Any

import pytest
from fleet_tables import fleet_of
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.role import Role
from sluice.domain.slo import SloClass, Urgency
from sluice.policy.joint import Joint
from sluice.policy.policy import Ask, Placed, Unplaced
from sluice.policy.worth import Weights

P, D, M = Role.PREFILL, Role.DECODE, Role.MIXED
SLO = SloClass(name="test", urgency=Urgency.STANDARD, ttft_s=1.0, tpot_s=0.03)
ASK = Ask(prompt_tokens=1000, output_tokens_max=400, slo=SLO, seed=3)
FAST = {"prefill_token_s": 0.00003, "base_s": 0.007, "price_per_s": 0.002}
# A fleet like H100 and A100: twice the price, a third of the prefill time, 0.7 of the decode time.


def placed(*workers: tuple[Role, dict[str, Any]], ask: Ask = ASK, cached: dict[int, int] | None = None) -> Placed:
    answer = Joint().place(ask, fleet_of(*workers), cached or {}, now_s=0.0)
    assert isinstance(answer, Placed), answer
    return answer


@given(
    first=st.integers(0, 40_000),
    more=st.integers(1, 40_000),
    column=st.sampled_from(["queued_tokens", "queued_pairs", "running", "context_tokens", "waiting"]),
    role=st.sampled_from([P, M]),
)
def test_more_work_never_makes_a_worker_more_attractive(first: int, more: int, column: str, role: Role) -> None:
    if column in {"running", "waiting"}:
        first, more = first % 60, more % 60
    other = (role, {"queued_tokens": 5000, "running": 10, "context_tokens": 9000})
    row = {"running": 5, "context_tokens": 4000}

    def cost(value: int) -> float:
        answer = placed((role, {**row, column: value}), other, (D, {}))
        return next((one.cost for one in answer.candidates if one.prefill == 0), float("inf"))

    assert cost(first + more) >= cost(first) - 1e-6


@given(cached=st.integers(0, 999), more=st.integers(0, 999))
def test_a_longer_match_never_makes_a_worker_less_attractive(cached: int, more: int) -> None:
    def cost(tokens: int) -> float:
        return placed((M, {}), cached={0: tokens}).candidates[0].cost

    assert cost(cached + more) <= cost(cached) + 1e-6


def test_the_longer_match_wins_until_its_queue_costs_more() -> None:
    assert placed((M, {}), (M, {}), cached={1: 800}).prefill == 1
    assert placed((M, {}), (M, {"queued_tokens": 3000}), cached={1: 800}).prefill == 0


def test_a_prompt_goes_to_the_decode_worker_that_has_nearly_all_of_it() -> None:
    answer = placed((P, {}), (D, {"running": 5, "context_tokens": 5000}), cached={1: 990})
    assert (answer.prefill, answer.decode) == (1, 1)


def test_a_short_prompt_is_not_worth_a_handoff_and_a_long_one_is() -> None:
    assert not placed((P, {}), (D, {}), ask=replace(ASK, prompt_tokens=40)).is_split
    assert placed((P, {}), (D, {}), ask=replace(ASK, prompt_tokens=200)).is_split


def test_a_long_prompt_beside_many_decoding_sequences_is_split_off() -> None:
    long = replace(ASK, prompt_tokens=8000)
    answer = placed((P, {}), (D, {"running": 40, "context_tokens": 40_000}), ask=long)
    assert (answer.prefill, answer.decode) == (0, 1)


def test_a_slow_link_keeps_a_request_on_one_worker() -> None:
    slow = {"link_bytes_per_s": 2e7}  # 131 MB take 6.5 s
    assert placed((M, {"queued_tokens": 1500}), (M, slow)).is_split is False
    answer = placed((P, slow), (D, slow))
    assert (answer.prefill, answer.decode) == (1, 1)
    assert answer.binding == "link"


def test_prompts_go_to_the_gpu_that_is_cheap_for_prompts_and_outputs_to_the_other() -> None:
    ask, fleet = (
        replace(ASK, prompt_tokens=6000, output_tokens_expected=400.0),
        fleet_of((M, FAST), (M, {}), kv_token_bytes=1),
    )
    thrifty = Joint(Weights(price=100.0)).place(ask, fleet, {}, now_s=0.0)
    assert isinstance(thrifty, Placed)
    assert (thrifty.prefill, thrifty.decode) == (0, 1)
    hasty = Joint(Weights(price=0.0)).place(ask, fleet, {}, now_s=0.0)
    assert isinstance(hasty, Placed)
    assert (hasty.prefill, hasty.decode) == (0, 0)


def test_a_worker_without_room_for_the_kv_is_avoided() -> None:
    answer = placed((M, {"free_blocks": 20}), (M, {"running": 20, "context_tokens": 20_000}))
    assert answer.decode == 1


def test_idle_equals_are_drawn_by_seed() -> None:
    chosen = {placed((M, {}), (M, {}), (M, {}), ask=replace(ASK, seed=seed)).decode for seed in range(20)}
    assert chosen == {0, 1, 2}


def test_a_first_token_that_would_come_too_late_is_refused_at_once_with_a_time_to_retry() -> None:
    hurried = replace(ASK, slo=replace(SLO, give_up_s=2.0))
    fleet = fleet_of((M, {"queued_tokens": 60_000}))
    refused = Joint().place(hurried, fleet, {}, now_s=0.0)
    assert isinstance(refused, Unplaced)
    assert refused.is_final
    assert refused.retry_after_s == pytest.approx(5.4, abs=0.1)
    assert isinstance(Joint().place(ASK, fleet, {}, now_s=0.0), Placed)


def test_a_worker_that_computed_many_prompts_lately_is_avoided_for_decoding() -> None:
    policy, fleet = Joint(), fleet_of((M, {"prefill_token_s": 7e-5}), (M, {}))
    first = policy.place(replace(ASK, prompt_tokens=20_000), fleet, {}, now_s=0.0)
    assert isinstance(first, Placed)
    then = [
        policy.place(replace(ASK, seed=seed, prompt_tokens=10, slo=replace(SLO, tpot_s=0.014)), fleet, {}, now_s=0.1)
        for seed in range(9)
    ]
    assert all(isinstance(one, Placed) and one.decode != first.prefill for one in then)


def test_among_equals_and_for_one_class_the_shortest_queue_times_the_smallest_batch_wins() -> None:
    # 2,000 x 4 is less than 1,500 x 6; a worker of another speed, or one whose KV is full, is another matter.
    rows = {"queued_tokens": 1000, "running": 3}, {"queued_tokens": 500, "running": 5}
    assert placed((M, rows[0]), (M, rows[1])).decode == 0
    assert placed((M, rows[0]), (M, rows[1])).candidates[0].terms["harm"] == pytest.approx(0.0)
    assert placed((M, {**rows[0], "free_blocks": 0}), (M, rows[1])).decode == 1
    assert placed((M, rows[0]), (M, {**rows[1], "prefill_token_s": 3e-5, "base_s": 0.005})).decode == 1


def test_equals_spread_a_prefix_that_is_too_popular() -> None:
    policy, fleet = Joint(), fleet_of((M, {}), (M, {}), (M, {}))
    chosen = [policy.place(replace(ASK, seed=seed), fleet, {0: 900}, now_s=0.1 * seed) for seed in range(40)]
    slots = [one.prefill for one in chosen if isinstance(one, Placed)]
    assert slots.count(0) > 20
    assert {1, 2} & set(slots)


def test_the_record_names_the_chosen_first_and_adds_up() -> None:
    answer = placed((P, {}), (P, {"queued_tokens": 500}), (D, {"running": 3, "context_tokens": 900}))
    chosen, *others = answer.candidates
    assert (chosen.prefill, chosen.decode) == (answer.prefill, answer.decode)
    assert all(chosen.cost <= other.cost for other in others)
    assert chosen.ttft_s == pytest.approx(0.11, rel=0.2)
