"""Joint's wishes while nothing arrives: moves that save misses, and a prefill worker that helps to decode."""

from collections.abc import Sequence
from typing import Any

import pytest
from fleet_tables import fleet_of
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.ids import SequenceId
from sluice.domain.role import Role
from sluice.domain.slo import SloClass, Urgency
from sluice.policy.fleet_table import FleetTable
from sluice.policy.joint import Joint
from sluice.policy.policy import Ask, Flip, Move, Placed, Running
from sluice.policy.rebalance import GAIN_MIN, HOT_MAX, Decoders, wished_moves
from sluice.policy.role_change import wished_flip
from sluice.policy.worth import steps_now

M, P, D = Role.MIXED, Role.PREFILL, Role.DECODE
TIGHT = SloClass(name="tight", urgency=Urgency.INTERACTIVE, ttft_s=0.5, tpot_s=0.02)
LOOSE = SloClass(name="loose", urgency=Urgency.BATCH, ttft_s=60.0, tpot_s=1.0)
HOT: dict[str, Any] = {"running": 60, "context_tokens": 30_000}  # steps of 22 ms
CALM: dict[str, Any] = {"running": 2, "context_tokens": 1_000}


def running(slot: int, classes: Sequence[SloClass], *, context_tokens: int = 500, first: int = 0) -> list[Running]:
    return [
        Running(
            sequence=SequenceId(first + number),
            slot=slot,
            context_tokens=context_tokens + number,
            output_tokens=10,
            slo=slo,
            worst_gap_s=0.0,
            is_moving=False,
        )
        for number, slo in enumerate(classes)
    ]


def moves(fleet: FleetTable, there: Sequence[Running]) -> list[Move]:
    return wished_moves(Decoders(fleet, steps_now(fleet), there))


def test_a_calm_fleet_moves_nothing() -> None:
    assert moves(fleet_of((M, CALM), (M, CALM)), running(0, [TIGHT] * 2)) == []


def test_an_overloaded_worker_gives_one_to_a_calm_one() -> None:
    (move,) = moves(fleet_of((M, HOT), (M, CALM)), running(0, [TIGHT] * 60))
    assert (move.sequence, move.to) == (SequenceId(0), 1)


def test_where_all_are_overloaded_nothing_moves() -> None:
    there = running(0, [TIGHT] * 60) + running(1, [TIGHT] * 60, first=100)
    assert moves(fleet_of((M, HOT), (M, HOT)), there) == []


def test_a_loose_sequence_makes_room_for_the_tight_ones_it_slows() -> None:
    # Worker 1 is slower than worker 0 and full of loose ones, who do not mind one more.
    fleet = fleet_of((M, {**HOT, "running": 52}), (M, {**HOT, "running": 62}))
    there = running(0, [TIGHT] * 40 + [LOOSE], context_tokens=4000) + running(1, [LOOSE] * 60, first=100)
    (move,) = moves(fleet, there)
    assert (move.sequence, move.to) == (SequenceId(40), 1)


def test_a_worker_whose_kv_runs_out_gives_one_away() -> None:
    full = {"running": 4, "context_tokens": 15_500, "free_blocks": 10}
    (move,) = moves(fleet_of((M, full), (M, CALM)), running(0, [LOOSE] * 4, context_tokens=3800))
    assert move.to == 1


def test_nothing_moves_where_its_kv_would_not_fit_or_over_a_severed_link() -> None:
    fleet = fleet_of((M, HOT), (M, {**CALM, "free_blocks": 20}))
    assert moves(fleet, running(0, [TIGHT] * 60)) == []
    severed = fleet_of((M, HOT), (M, CALM))
    severed.severed = {0: frozenset({1})}
    assert moves(severed, running(0, [TIGHT] * 60)) == []


@given(loads=st.lists(st.integers(0, 60), min_size=2, max_size=6), classes=st.integers(1, 2), hurry=st.booleans())
def test_every_move_is_one_that_could_be_made_and_no_sequence_moves_twice(
    loads: list[int], classes: int, *, hurry: bool
) -> None:
    kinds = [TIGHT, LOOSE][:classes] if hurry else [LOOSE]
    fleet = fleet_of(*[(M, {"running": load, "context_tokens": 500 * load}) for load in loads])
    there = [
        one
        for slot, load in enumerate(loads)
        for one in running(slot, [kinds[n % len(kinds)] for n in range(load)], first=1000 * slot)
    ]
    wished = moves(fleet, there)
    assert len(wished) <= HOT_MAX
    assert len({move.sequence for move in wished}) == len(wished)
    slots = {one.sequence: one.slot for one in there}
    assert all(0 <= move.to < len(loads) and move.to != slots[move.sequence] for move in wished)
    assert all(float(move.why.split()[1]) >= GAIN_MIN - 0.005 for move in wished)


def test_joint_looks_at_the_running_only_where_it_placed_something_that_may_miss() -> None:
    class Unread(list[Running]):
        def __iter__(self) -> Any:
            raise AssertionError("nobody asked")

    assert Joint().tend(fleet_of((M, HOT), (M, CALM)), Unread(), now_s=0.0) == ()
    assert Joint().tend(FleetTable(), Unread(), now_s=0.0) == ()


def test_joint_moves_what_it_placed_too_tightly() -> None:
    policy = Joint()
    for seed in range(20):
        ask = Ask(prompt_tokens=10, output_tokens_max=100, slo=TIGHT, seed=seed, excluded=frozenset({1}))
        assert isinstance(policy.place(ask, fleet_of((M, {}), (M, {})), {}, now_s=0.0), Placed)
    wishes = policy.tend(fleet_of((M, HOT), (M, CALM)), running(0, [TIGHT] * 60), now_s=0.1)
    assert [type(wish) for wish in wishes] == [Move]


@pytest.mark.parametrize(
    ("prompt_share", "roles", "flips"),
    [
        ((0.1, 0.2, 0.0), (P, P, D), [0]),  # they have time, decoding misses
        ((0.2, 0.1, 0.0), (P, P, D), [1]),
        ((0.9, 0.9, 0.0), (P, P, D), []),  # the other could not carry their prompts
        ((0.1, 0.0, 0.0), (P, D, D), []),  # the last one that prefills
        ((0.1, 0.1, 0.1), (M, M, D), []),  # nobody to ask
    ],
)
def test_a_prefill_worker_helps_where_decoding_misses_and_the_others_carry_its_prompts(
    prompt_share: tuple[float, ...], roles: tuple[Role, ...], flips: list[int]
) -> None:
    fleet = fleet_of(*[(role, HOT if role is D else {}) for role in roles])
    steps = steps_now(fleet)
    missed = steps.sequences * 0.5 * (fleet.role_bits[: fleet.rows] == 2)
    wished = wished_flip(fleet, steps, missed=missed, prompt_share=steps.sequences * 0.0 + prompt_share)
    assert wished == [Flip(slot=slot, role=M, why=wished[0].why) for slot in flips]
    assert wished_flip(fleet, steps, missed=missed * 0.01, prompt_share=steps.sequences * 0.0) == []
