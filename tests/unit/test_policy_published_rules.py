"""The rules of the systems that predict: picks worked out by hand from their papers, on the same curves."""

from typing import Any

import pytest
from fleet_tables import fleet_of

from sluice.domain.ids import SequenceId
from sluice.domain.role import Role
from sluice.domain.slo import SloClass, Urgency
from sluice.policy.fleet_table import FleetTable
from sluice.policy.policy import Ask, Flip, Move, Placed, Running, Unplaced
from sluice.policy.registry import make_policy

P, D, M = Role.PREFILL, Role.DECODE, Role.MIXED
SLO = SloClass(name="test", urgency=Urgency.STANDARD, ttft_s=1.0, tpot_s=0.02)
# A worker's step takes 0.01 s + 0.0002 s per sequence; 40 sequences are 0.0182 s, 50 are 0.0202 s.
BUSY = {"context_tokens": 1}


def place(name: str, fleet: FleetTable, cached: dict[int, int] | None = None, **changes: Any) -> tuple[int, int]:
    ask = Ask(**{"prompt_tokens": 1000, "output_tokens_max": 100, "slo": SLO, "seed": 1, **changes})
    placed = make_policy(name).place(ask, fleet, cached or {}, now_s=0.0)
    assert isinstance(placed, Placed), placed
    return placed.prefill, placed.decode


def running(slot: int, *, number: int = 1, context_tokens: int = 100, is_moving: bool = False) -> Running:
    return Running(
        sequence=SequenceId(number),
        slot=slot,
        context_tokens=context_tokens,
        output_tokens=10,
        slo=SLO,
        worst_gap_s=0.01,
        is_moving=is_moving,
    )


def test_prefix_aware_takes_the_longest_match_while_the_fleet_is_in_balance() -> None:
    assert place("prefix_aware", fleet_of((M, {}), (M, {"running": 60})), {1: 900}) == (1, 1)
    assert place("prefix_aware", fleet_of((M, {}), (M, {"running": 70})), {1: 900}) == (0, 0)  # out of balance
    assert place("prefix_aware", fleet_of((M, {}), (M, {"running": 60})), {1: 200}) == (0, 0)  # hardly a match


def test_dynamo_adds_prefill_blocks_to_decode_blocks() -> None:
    # 63 + 63 blocks against 63 - 50 + 63 + 60 = 136, and with 40 blocks of context instead 116.
    assert place("dynamo", fleet_of((M, {}), (M, {"context_tokens": 960})), {1: 800}) == (0, 0)
    assert place("dynamo", fleet_of((M, {}), (M, {"context_tokens": 640})), {1: 800}) == (1, 1)


def test_dynamo_does_not_know_that_one_gpu_is_slower() -> None:
    slow = {"prefill_token_s": 0.01, "decode_s": 0.1}
    assert place("dynamo", fleet_of((M, {"queued_tokens": 100}), (M, slow))) == (1, 1)


def test_llm_d_fills_the_worker_with_the_least_headroom_that_meets_both_objectives() -> None:
    rows = (M, {"running": 5, **BUSY}), (M, {"running": 20, **BUSY}), (M, {"running": 60, **BUSY})
    assert place("llm_d", fleet_of(*rows)) == (1, 1)


def test_llm_d_takes_the_smallest_excess_when_nobody_has_headroom() -> None:
    late = {"queued_tokens": 20_000}
    assert place("llm_d", fleet_of((M, {"queued_tokens": 30_000}), (M, late))) == (1, 1)


def test_llm_d_explores_once_in_a_hundred() -> None:
    fleet = fleet_of((M, {"queued_tokens": 30_000}), (M, {}))
    assert {place("llm_d", fleet, seed=100 * i + 99)[0] for i in range(20)} == {0, 1}


def test_polyserve_takes_the_most_loaded_worker_that_meets_every_deadline() -> None:
    rows = (D, {"running": 10}), (D, {"running": 40}), (D, {"running": 60}), (P, {})
    assert place("polyserve", fleet_of(*rows)) == (3, 1)


def test_polyserve_takes_the_least_loaded_when_all_would_miss_and_minds_the_memory() -> None:
    assert place("polyserve", fleet_of((D, {"running": 70}), (D, {"running": 60}), (P, {})))[1] == 1
    full = {"running": 40, "free_blocks": 10}
    assert place("polyserve", fleet_of((D, {"running": 10}), (D, full), (P, {})))[1] == 0


def test_mooncake_minimises_queue_plus_prefill_and_refuses_what_would_miss() -> None:
    rows = (P, {"queued_tokens": 3000}), (P, {"queued_tokens": 2800}), (D, {"running": 9}), (D, {"running": 8})
    assert place("mooncake", fleet_of(*rows)) == (1, 3)
    assert place("mooncake", fleet_of(*rows), {0: 900}) == (0, 3)
    late = fleet_of((P, {"queued_tokens": 9000}), (D, {}))
    refused = make_policy("mooncake").place(Ask(prompt_tokens=1000, output_tokens_max=9, slo=SLO), late, {}, now_s=0.0)
    assert isinstance(refused, Unplaced)
    assert refused.is_final
    assert refused.retry_after_s >= 1.0


def test_xllm_decodes_at_the_first_worker_that_meets_the_objective() -> None:
    assert place("xllm", fleet_of((D, {"running": 60}), (D, {"running": 30}), (D, {}), (P, {}))) == (3, 1)
    assert place("xllm", fleet_of((D, {"running": 90}), (D, {"running": 80}), (P, {}))) == (2, 1)


def test_xllm_prefills_on_a_decode_worker_when_prefill_workers_are_late() -> None:
    late = {"queued_tokens": 20_000}  # 2 s; a decode worker has time to spare below 0.02 * 2 / 3 s
    assert place("xllm", fleet_of((P, late), (D, {"running": 30}), (D, {"running": 9}), (D, {"running": 1}))) == (3, 1)
    busy = D, {"running": 60}
    assert place("xllm", fleet_of((P, late), busy, busy, busy))[0] == 0


@pytest.mark.parametrize(
    ("workers", "flip"),
    [
        ([(P, {}), (P, {}), (D, {"running": 90, **BUSY})], (0, Role.DECODE)),
        ([(P, {}), (D, {"running": 90, **BUSY})], None),  # one of each stays
        ([(P, {}), (D, {}), (D, {"running": 9, **BUSY})], (1, Role.PREFILL)),
        ([(P, {}), (D, {"running": 1, **BUSY}), (D, {"running": 9, **BUSY})], None),
    ],
)
def test_xllm_flips_to_decode_when_none_meets_the_objective_and_back_when_one_is_empty(
    workers: list[tuple[Role, dict[str, Any]]], flip: tuple[int, Role] | None
) -> None:
    flips = make_policy("xllm").tend(fleet_of(*workers), [running(len(workers) - 1)], now_s=0.0)
    assert [(one.slot, one.role) for one in flips if isinstance(one, Flip)] == ([] if flip is None else [flip])


def test_llumnix_packs_decode_below_its_bound_then_converts_a_free_worker() -> None:
    # The bound is 0.85 * 0.02 = 0.017 s: 34 sequences and the newcomer.
    packed = (M, {"running": 10, **BUSY}), (M, {"running": 30, **BUSY}), (M, {}), (M, {"queued_tokens": 9})
    assert place("llumnix", fleet_of(*packed)) == (2, 1)
    full = (M, {"running": 40, **BUSY}), (M, {"running": 45, **BUSY}), (M, {}), (M, {"queued_tokens": 9})
    assert place("llumnix", fleet_of(*full)) == (3, 2)


def test_llumnix_leaves_free_workers_to_prompts_while_sequences_are_on_their_way() -> None:
    coming = {"running": 5, "waiting": 60, "context_tokens": 5000, "decode_s": 0.0005}
    assert place("llumnix", fleet_of((P, {}), (D, coming), (M, {}))) in {(0, 1), (2, 1)}


def test_llumnix_mitigates_from_the_hottest_and_consolidates_from_the_coldest() -> None:
    fleet = fleet_of((M, {"running": 48, **BUSY}), (M, {"running": 30, **BUSY}), (M, {"running": 5, **BUSY}), (M, {}))
    busy = [
        running(0, number=1, context_tokens=500),
        running(0, number=2, context_tokens=100),
        running(0, number=3, context_tokens=50, is_moving=True),
        running(1, number=4),
        running(2, number=5),
    ]
    moves = make_policy("llumnix").tend(fleet, busy, now_s=0.0)
    assert [(move.sequence, move.to) for move in moves if isinstance(move, Move)] == [(2, 1), (5, 1)]
