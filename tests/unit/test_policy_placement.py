"""Placement uses two workers only when that pays, and one whenever any can serve."""

from dataclasses import replace
from itertools import product

import pytest

from sluice.domain.ids import BootId, WorkerId
from sluice.domain.load import WorkerInfo, WorkerLoad
from sluice.domain.role import Lifecycle, Role
from sluice.policy.filters import RequestFacts
from sluice.policy.placement import Decision, NoPlace, PlacementRules, place, place_decode
from sluice.policy.view import WorkerView

RULES = PlacementRules(disaggregate_tokens_min=64)
LONG = RequestFacts(prompt_tokens=512, output_tokens_max=100)


def worker(slot: int, role: Role, **load: int) -> WorkerView:
    info = WorkerInfo(
        worker=WorkerId(f"{role.value}-{slot}"),
        boot=BootId(f"boot-{slot}"),
        role=role,
        model="m",
        model_fingerprint="f",
        kv_address="",
        block_tokens=16,
        blocks=1000,
        sequence_tokens_max=4096,
        batch_sequences_max=8,
        device="cpu",
    )
    return WorkerView(slot=slot, info=info, load=WorkerLoad(lifecycle=Lifecycle.READY, **{"free_blocks": 1000, **load}))


def decide(views: list[WorkerView], facts: RequestFacts = LONG, cached: dict[int, int] | None = None) -> Decision:
    decision = place(facts, views, cached or {}, rules=RULES, seed=1)
    assert isinstance(decision, Decision)
    return decision


def roles(decision: Decision) -> tuple[Role, Role]:
    return decision.prefill.info.role, decision.decode.info.role


P, D, M = Role.PREFILL, Role.DECODE, Role.MIXED


@pytest.mark.parametrize("has", [set(c) for c in ((P,), (D,), (M,), (P, D), (P, M), (D, M), (P, D, M))])
@pytest.mark.parametrize("facts", [LONG, replace(LONG, output_tokens_max=1), replace(LONG, prompt_tokens=10)])
def test_any_set_of_roles_serves_every_request(has: set[Role], facts: RequestFacts) -> None:
    decision = decide([worker(i, role) for i, role in enumerate(has)], facts)
    assert {decision.prefill.info.role, decision.decode.info.role} <= has


def test_a_long_prompt_is_split() -> None:
    decision = decide([worker(0, P), worker(1, D)])
    assert decision.is_split
    assert roles(decision) == (P, D)
    assert "split: 512 uncached tokens" in decision.reason


def test_a_short_prompt_stays_with_the_decode_worker() -> None:
    decision = decide([worker(0, P), worker(1, D)], replace(LONG, prompt_tokens=63))
    assert roles(decision) == (D, D)
    assert "63 uncached tokens < 64" in decision.reason


def test_a_prompt_cached_at_the_decode_worker_stays_there() -> None:
    assert roles(decide([worker(0, P), worker(1, D)], cached={1: 496})) == (D, D)


def test_one_token_of_output_needs_no_decode_worker() -> None:
    assert roles(decide([worker(0, P), worker(1, D)], replace(LONG, output_tokens_max=1))) == (P, P)


def test_the_worker_with_the_prefix_wins_at_equal_load() -> None:
    assert decide([worker(0, M), worker(1, M), worker(2, M)], cached={1: 256}).prefill.slot == 1


def test_the_idle_worker_wins_at_equal_prefix() -> None:
    views = [worker(0, M, running_sequences=6), worker(1, M), worker(2, M, free_blocks=100)]
    assert decide(views).prefill.slot == 1


def test_a_mixed_worker_wins_when_the_pair_is_busy() -> None:
    busy = [worker(0, P, waiting_prefill_tokens=9000), worker(1, D, running_sequences=7)]
    assert roles(decide([*busy, worker(2, M)])) == (M, M)
    assert roles(decide([worker(0, P), worker(1, D), worker(2, M, running_sequences=12)])) == (P, D)


def test_equal_workers_share_the_work() -> None:
    views = [worker(slot, M) for slot in range(4)]
    picks = [place(LONG, views, {}, rules=RULES, seed=seed) for seed in range(400)]
    counts = [sum(isinstance(p, Decision) and p.prefill.slot == slot for p in picks) for slot in range(4)]
    assert min(counts) > 60


def test_the_same_seed_gives_the_same_place() -> None:
    views = [worker(slot, M) for slot in range(4)]
    assert len({decide(views).prefill.slot for _ in range(20)}) == 1


@pytest.mark.parametrize("lifecycle", [state for state in Lifecycle if state is not Lifecycle.READY])
def test_only_ready_workers_admit(lifecycle: Lifecycle) -> None:
    view = worker(0, M)
    nowhere = place(LONG, [replace(view, load=replace(view.load, lifecycle=lifecycle))], {}, rules=RULES, seed=0)
    assert isinstance(nowhere, NoPlace)
    assert str(nowhere) == f"mixed-0: {lifecycle.value}"
    assert not nowhere.is_busy


def test_a_full_worker_makes_the_request_wait() -> None:
    nowhere = place(LONG, [worker(0, M, running_sequences=16)], {}, rules=RULES, seed=0)
    assert isinstance(nowhere, NoPlace)
    assert nowhere.is_busy


def test_a_sequence_too_long_for_every_worker_is_told_so() -> None:
    nowhere = place(replace(LONG, prompt_tokens=4096), [worker(0, M)], {}, rules=RULES, seed=0)
    assert str(nowhere) == "mixed-0: sequence too long"


def test_what_was_just_placed_counts_before_any_heartbeat() -> None:
    busy = replace(worker(0, M), recent_tokens=5000, recent_sequences=4, own_sequences=4)
    assert decide([busy, worker(1, M)]).prefill.slot == 1


def test_a_refused_handoff_finds_another_decode_worker_or_none() -> None:
    views = [worker(0, P), worker(1, D), worker(2, D)]
    other = place_decode(replace(LONG, excluded={WorkerId("decode-1")}), views, {}, source=None, seed=0)
    assert other is not None
    assert other.slot == 2
    tried = {WorkerId("decode-1"), WorkerId("decode-2")}
    assert place_decode(replace(LONG, excluded=tried), views, {}, source=None, seed=0) is None


def test_every_decision_names_all_candidates_and_its_terms() -> None:
    decision = decide([worker(0, P), worker(1, P), worker(2, D)], cached={1: 128})
    assert [candidate.view.slot for candidate in decision.candidates] == [0, 1, 2]
    assert decision.cached_tokens == 128
    assert "prefill-1 (prefix 0.25, score 0.84) of 2" in decision.reason


def test_a_popular_prefix_does_not_pile_everyone_on_its_holder() -> None:
    """Found by thought, not by accident: with a fixed bonus for prefixes others would idle."""
    for roles_here in ((M,) * 4, (P, P, D, D)):
        views = [worker(slot, role) for slot, role in enumerate(roles_here)]
        holders = {0: 448, 2: 448}
        for _ in range(20):
            decision = decide(views, cached=holders)
            for slot in {decision.prefill.slot, decision.decode.slot}:
                view = views[slot]
                tokens = 512 - holders.get(slot, 0) if slot == decision.prefill.slot else 0
                views[slot] = replace(
                    view, own_sequences=view.own_sequences + 1, recent_tokens=view.recent_tokens + tokens
                )
        spread = [view.own_sequences for view in views]
        assert max(spread[:2]) - min(spread[:2]) <= 8, spread
        assert max(spread[2:]) - min(spread[2:]) <= 8, spread


def test_scores_stay_between_zero_and_one() -> None:
    for waiting, running, free in product((0, 10**9), (0, 15), (0, 1000)):
        loads = {"waiting_prefill_tokens": waiting, "running_sequences": running, "free_blocks": free}
        views = [worker(0, P, **loads), worker(1, D, **loads)]
        for candidate in decide(views, cached={0: 10**6, 1: 16}).candidates:
            assert 0.0 <= candidate.prefix <= 1.0
            assert 0.0 <= candidate.load <= 1.0
