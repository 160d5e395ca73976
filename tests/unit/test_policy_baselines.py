"""Each baseline keeps its published rule, on tables small enough to work out by hand."""

from typing import Any

import pytest
from fleet_tables import fleet_of

from sluice.domain.role import Role
from sluice.errors import ConfigError
from sluice.policy.fleet_table import FleetTable
from sluice.policy.policy import Ask, Placed, Policy
from sluice.policy.registry import POLICIES, make_policy

P, D, M = Role.PREFILL, Role.DECODE, Role.MIXED


def ask(**changes: Any) -> Ask:
    return Ask(**{"prompt_tokens": 1000, "output_tokens_max": 100, **changes})


def place(
    name_or_policy: str | Policy, fleet: FleetTable, cached: dict[int, int] | None = None, **changes: Any
) -> tuple[int, int]:
    policy = make_policy(name_or_policy) if isinstance(name_or_policy, str) else name_or_policy
    placed = policy.place(ask(**changes), fleet, cached or {}, now_s=0.0)
    assert isinstance(placed, Placed), placed
    return placed.prefill, placed.decode


def test_an_unknown_policy_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'bogus' is unknown; choose one of .*lmetric"):
        make_policy("bogus")


def test_every_policy_says_the_name_it_is_registered_by() -> None:
    assert all(make_policy(name).name == name for name in POLICIES)


def test_round_robin_takes_turns_within_each_role() -> None:
    fleet, policy = fleet_of((P, {}), (P, {}), (D, {}), (D, {}), (D, {})), make_policy("round_robin")
    assert [place(policy, fleet, seed=7) for _ in range(4)] == [(0, 2), (1, 3), (0, 4), (1, 2)]


def test_least_load_joins_the_shortest_queue_and_the_smallest_batch() -> None:
    fleet = fleet_of((P, {"queued_tokens": 500}), (P, {"queued_tokens": 400}), (D, {"running": 3}), (D, {"running": 2}))
    assert place("least_load", fleet) == (1, 3)


def test_lmetric_multiplies_new_prefill_tokens_by_batch_size() -> None:
    # 2000 * 3 = 6000 against (500 + 1000) * 5 = 7500 and, with a cache of 800, (900 + 200) * 5 = 5500
    rows = (M, {"queued_tokens": 1000, "running": 2}), (M, {"queued_tokens": 500, "running": 4})
    assert place("lmetric", fleet_of(*rows)) == (0, 0)
    assert place("lmetric", fleet_of(*rows, (M, {"queued_tokens": 900, "running": 4})), {2: 800}) == (2, 2)


def test_lmetric_prefills_by_tokens_and_decodes_by_batch_in_separate_pools() -> None:
    fleet = fleet_of(
        (P, {"queued_tokens": 900, "running": 1}),
        (P, {"queued_tokens": 100, "running": 60}),
        (D, {"running": 3, "queued_tokens": 0}),
        (D, {"running": 2, "queued_tokens": 9000}),
    )
    assert place("lmetric", fleet) == (1, 3)


def test_lmetric_bars_a_hotspots_holders_from_one_choice_after_they_won_twice_their_number() -> None:
    fleet, policy = fleet_of((M, {}), (M, {}), (M, {}), (M, {})), make_policy("lmetric")
    chosen = [place(policy, fleet, {0: 900})[0] for _ in range(20)]
    assert chosen[:16] == [0] * 16  # no alarm before there is a history
    assert chosen[16] != 0  # everybody wants the prefix of one worker out of four
    assert chosen[17:19] == [0, 0]  # and then it must win twice again
    assert chosen[19] != 0


def test_without_prefill_workers_decode_workers_do_all_and_the_other_way_round() -> None:
    for name in POLICIES:
        assert place(name, fleet_of((D, {}))) == (0, 0)
        assert place(name, fleet_of((P, {}))) == (0, 0)


def test_one_token_is_chosen_where_the_prompt_is_computed() -> None:
    for name in POLICIES:
        assert place(name, fleet_of((P, {}), (D, {})), output_tokens_max=1) == (0, 0)


def test_a_resident_sequence_only_gets_another_place_to_decode() -> None:
    for name in POLICIES:
        assert place(name, fleet_of((D, {}), (D, {})), resident=0) == (0, 1)
