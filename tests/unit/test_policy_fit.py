"""No policy ever places a sequence on a worker that cannot take it."""

from typing import Any

import pytest
from fleet_tables import fleet_of
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.role import Role
from sluice.policy.fleet_table import FleetTable
from sluice.policy.policy import Ask, Placed, Unplaced
from sluice.policy.registry import POLICIES, make_policy

ROWS = st.fixed_dictionaries(
    {
        "is_ready": st.sampled_from([0, 1, 1, 1]),
        "sequence_tokens_max": st.sampled_from([100, 5000]),
        "running": st.integers(0, 5),
        "waiting": st.integers(0, 5),
        "batch_sequences_max": st.just(4),
        "queued_tokens": st.integers(0, 5000),
        "free_blocks": st.integers(0, 1000),
        "context_tokens": st.integers(0, 10_000),
        "error": st.sampled_from([0.0, 0.1]),
    }
)
ASKS = st.builds(
    Ask,
    prompt_tokens=st.sampled_from([1, 50, 1000]),
    output_tokens_max=st.sampled_from([1, 20]),
    excluded=st.frozensets(st.integers(0, 7)),
    seed=st.integers(0, 3),
)
FLEETS = st.lists(st.tuples(st.sampled_from(list(Role)), ROWS), max_size=6)


def can_take(fleet: FleetTable, ask: Ask, slot: int) -> bool:
    return bool(
        fleet.is_ready[slot]
        and fleet.role_bits[slot]  # one that only encodes takes nobody
        and slot not in ask.excluded
        and fleet.sequence_tokens_max[slot] >= ask.prompt_tokens + ask.output_tokens_max
        and fleet.waiting[slot] + fleet.running[slot] < 2 * fleet.batch_sequences_max[slot]
    )


@pytest.mark.parametrize("name", list(POLICIES))
@given(
    workers=FLEETS,
    ask=ASKS,
    severed=st.dictionaries(st.integers(0, 5), st.frozensets(st.integers(0, 5))),
    cached=st.dictionaries(st.integers(0, 5), st.integers(1, 2000)),
)
def test_only_workers_that_can_take_it_are_chosen_and_someone_is_if_anybody_can(
    name: str,
    workers: list[tuple[Role, dict[str, Any]]],
    ask: Ask,
    cached: dict[int, int],
    severed: dict[int, frozenset[int]],
) -> None:
    fleet = fleet_of(*workers)
    fleet.severed = {source: targets - {source} for source, targets in severed.items()}
    cached = {slot: tokens for slot, tokens in cached.items() if slot < len(workers)}
    able = {slot for slot in range(len(workers)) if can_take(fleet, ask, slot)}
    placed = make_policy(name).place(ask, fleet, cached, now_s=0.0)
    if isinstance(placed, Placed):
        assert {placed.prefill, placed.decode} <= able
        assert fleet.can_send(placed.prefill, placed.decode)
        assert 0 <= placed.cached_tokens < ask.prompt_tokens
    else:
        assert not able


def test_a_sequence_no_worker_is_large_enough_for_is_refused_for_good() -> None:
    ask = Ask(prompt_tokens=40_000, output_tokens_max=1)
    fleet = fleet_of((Role.MIXED, {}), (Role.DECODE, {}))
    assert make_policy("least_load").place(ask, fleet, {}, now_s=0.0) == Unplaced(
        reason="2 too small for it", is_final=True, retry_after_s=0.0
    )


def test_a_full_fleet_is_worth_waiting_for() -> None:
    ask = Ask(prompt_tokens=10, output_tokens_max=1)
    refused = make_policy("least_load").place(ask, fleet_of((Role.MIXED, {"running": 128})), {}, now_s=0.0)
    assert refused == Unplaced(reason="1 full")
