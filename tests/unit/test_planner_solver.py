"""The integer program finds the optimum, keeps every bound, and answers looser bounds with no dearer mix."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.capacity.gpu_class import GpuClass
from sluice.capacity.step_curve import StepCurve
from sluice.errors import ConfigError
from sluice.planner import problem as problems
from sluice.planner import solver
from sluice.planner.plan import Offer, make_plan, rate_share_max
from sluice.planner.problem import Problem
from sluice.planner.replica_kind import ReplicaKind
from sluice.planner.sensitivity import Bound, reliefs, rivals
from sluice.planner.solver import Outcome
from sluice.planner.throughput import Limit, Phase, Target
from sluice.planner.workload import Bucket, Workload, histogram


def kind(name: str, *, price: float, prefill: float, decode: float, degree: int = 1, link: float = 25e9) -> ReplicaKind:
    """A kind `prefill` and `decode` times as fast as a plain one."""
    gpu = GpuClass(
        name=name,
        memory_bytes=80 << 30,
        flop_per_s=1e15,
        memory_bytes_per_s=2e12,
        link_bytes_per_s=link,
        price_per_h=price,
    )
    model = StepCurve(
        base_s=0.012 / decode,
        prefill_token_s=6e-5 / prefill,
        pair_s=1e-9 / prefill,
        decode_s=1e-4 / decode,
        context_token_s=1e-7 / decode,
    )
    return ReplicaKind(
        gpu=gpu, tensor_parallel=degree, model=model, kv_tokens=400_000, kv_token_bytes=131_072, encode_image_s=0.05
    )


FAST = kind("H100", price=7.5, prefill=2.0, decode=1.45)
PLAIN = kind("A100", price=3.7, prefill=1.0, decode=1.0)
SMALL = kind("L4", price=0.7, prefill=0.13, decode=0.2, link=3e9)
TARGET = Target(ttft_s=1.0, tpot_s=0.05)
CHAT = Workload(
    buckets=(
        Bucket(input_tokens=200, input_tokens_max=400, output_tokens=150, rate_per_s=6),
        Bucket(input_tokens=1500, input_tokens_max=3000, output_tokens=250, rate_per_s=4),
        Bucket(input_tokens=6000, input_tokens_max=7000, output_tokens=200, rate_per_s=1),
    )
)

load = st.one_of(st.floats(0.05, 3.0), st.just(math.inf))


@st.composite
def small_problems(draw: st.DrawFn) -> Problem:
    """Two kinds, one or two buckets of two slices, any loads, prices, supplies, and sometimes a trunk."""
    buckets = draw(st.integers(1, 2))
    prices = [draw(st.integers(1, 9)) for _ in range(2)]
    kinds = [
        replace(PLAIN, gpu=replace(PLAIN.gpu, name=name, price_per_h=price), tensor_parallel=degree)
        for name, price, degree in zip("AB", prices, (1, draw(st.integers(1, 2))), strict=True)
    ]
    images = draw(st.sampled_from([0, 1]))
    sizes = [Bucket(input_tokens=100, input_tokens_max=100, output_tokens=9, rate_per_s=1, images=images)] * buckets
    loads = {phase: np.array([[draw(load) for _ in kinds] for _ in sizes]) for phase in Phase}
    gpus_max = {name: draw(st.integers(0, 6)) for name in draw(st.sampled_from(["", "A", "B", "AB"]))}
    moved = 100 * PLAIN.kv_token_bytes
    trunks = {("A", "B"): moved * draw(st.sampled_from([0.0, 0.5, 1.0]))} if draw(st.booleans()) else {}
    return Problem(
        workload=Workload(buckets=tuple(sizes)),
        kinds=tuple(kinds),
        gpus_max=gpus_max,
        loads=loads,
        limits={phase: [[Limit.TTFT] * 2] * buckets for phase in Phase},
        trunks=trunks,
        slices_per_bucket=2,
    )


def by_brute_force(problem: Problem) -> float:
    """The least cost over every way of routing every slice: a pair of kinds, or one kind for all."""
    routes = [
        ("split", prefill, decode, encode)
        for prefill, decode in itertools.product(range(2), repeat=2)
        for encode in (range(2) if problem.workload.buckets[0].images else [0])
    ] + [("mixed", each, each, each) for each in range(2)]
    has_images = problem.workload.buckets[0].images > 0
    routes += [("tokens", each, each, encode) for each in range(2) for encode in (range(2) if has_images else [0])]
    slices = [row for row in range(len(problem.workload.buckets)) for _ in range(problem.slices_per_bucket or 1)]
    # The slices of a bucket are alike: their order does not matter.
    ways = list(itertools.combinations_with_replacement(routes, problem.slices_per_bucket or 1))
    choices = itertools.product(ways, repeat=len(problem.workload.buckets))
    return min(cost_of(problem, slices, tuple(itertools.chain(*choice))) for choice in choices)


def cost_of(problem: Problem, slices: list[int], choice: tuple[tuple[str, int, int, int], ...]) -> float:
    busy = {phase: [0.0, 0.0] for phase in Phase}
    flow = 0.0
    whole = problem.slices_per_bucket or 1
    has_images = problem.workload.buckets[0].images > 0
    for row, (how, prefill, decode, encode) in zip(slices, choice, strict=True):
        encoded = [(Phase.ENCODE, encode)] if has_images else []
        parts = {
            "mixed": [(Phase.MIXED, prefill)],
            "tokens": [(Phase.TOKENS, prefill), *encoded],
            "split": [(Phase.PREFILL, prefill), (Phase.DECODE, decode), *encoded],
        }[how]
        for phase, at in parts:
            busy[phase][at] += problem.loads[phase][row, at] / whole
        if how == "split" and (prefill, decode) == (0, 1):
            flow += problem.kv_bytes_per_s[row] / whole
    if any(math.isinf(value) for each in busy.values() for value in each):
        return math.inf
    if flow > problem.trunks.get(("A", "B"), math.inf) + 1e-6:
        return math.inf
    counts = {phase: [math.ceil(value - 1e-9) for value in each] for phase, each in busy.items()}
    for at, each in enumerate(problem.kinds):
        gpus = each.tensor_parallel * sum(count[at] for count in counts.values())
        if gpus > problem.gpus_max.get(each.gpu.name, math.inf):
            return math.inf
    return sum(each.price_per_h * count[at] for at, each in enumerate(problem.kinds) for count in counts.values())


@settings(max_examples=30, deadline=None)
@given(small_problems())
def test_no_assignment_of_slices_is_cheaper_than_the_plan(problem: Problem) -> None:
    solution = solver.solve(problem)
    assert solution.cost_per_h == pytest.approx(by_brute_force(problem))


@settings(max_examples=20, deadline=None)
@given(small_problems())
def test_shares_of_any_size_are_never_dearer_than_slices(problem: Problem) -> None:
    free = solver.solve(replace(problem, slices_per_bucket=None)).cost_per_h
    assert free <= solver.solve(problem).cost_per_h + 1e-6
    assert free <= solver.solve(replace(problem, slices_per_bucket=240)).cost_per_h + 1e-6


@settings(max_examples=25, deadline=None)
@given(small_problems(), st.booleans())
def test_pools_are_as_large_as_their_load_and_every_phase_is_done_once(problem: Problem, is_free: bool) -> None:
    if is_free:
        problem = replace(problem, slices_per_bucket=None)
    solution = solver.solve(problem)
    if solution.outcome is Outcome.IMPOSSIBLE:
        return
    served = {phase: table.sum(axis=1) for phase, table in solution.shares.items()}
    assert served[Phase.PREFILL] == pytest.approx(served[Phase.DECODE])
    assert served[Phase.PREFILL] + served[Phase.MIXED] + served[Phase.TOKENS] == pytest.approx(1.0)
    if problem.workload.buckets[0].images:
        assert served[Phase.ENCODE] == pytest.approx(served[Phase.PREFILL] + served[Phase.TOKENS])
    for phase in Phase:
        used = np.where(solution.shares[phase] > 1e-9, problem.loads[phase], 0.0) * solution.shares[phase]
        assert (used.sum(axis=0) <= solution.replicas[phase] + 1e-5).all()


offers = st.lists(st.sampled_from([FAST, PLAIN, SMALL]), min_size=1, max_size=3, unique_by=lambda each: each.name)


def cost(target: Target = TARGET, *, kinds: list[ReplicaKind], gpus_max: dict[str, int]) -> float:
    problem = problems.build(CHAT, kinds, target, gpus_max=gpus_max)
    return solver.solve(problem).cost_per_h if all(problems.reachable(problem)) else math.inf


@settings(max_examples=25, deadline=None)
@given(offers, st.floats(0.4, 2), st.floats(0.4, 2), st.floats(1, 3), st.floats(1, 3))
def test_a_tighter_objective_is_never_cheaper(
    kinds: list[ReplicaKind], ttft_s: float, tpot: float, tighter_ttft: float, tighter_tpot: float
) -> None:
    loose = Target(ttft_s=ttft_s, tpot_s=0.05 * tpot)
    tight = Target(ttft_s=ttft_s / tighter_ttft, tpot_s=0.05 * tpot / tighter_tpot)
    assert cost(tight, kinds=kinds, gpus_max={}) >= cost(loose, kinds=kinds, gpus_max={}) - 1e-6


@settings(max_examples=15, deadline=None)
@given(offers, st.integers(1, 12), st.integers(0, 6))
def test_fewer_gpus_are_never_cheaper_and_a_lower_price_is_never_dearer(
    kinds: list[ReplicaKind], most: int, fewer: int
) -> None:
    scarce = kinds[0].gpu.name
    plenty = cost(kinds=kinds, gpus_max={scarce: most + fewer})
    assert cost(kinds=kinds, gpus_max={scarce: most}) >= plenty - 1e-6
    cheap = replace(kinds[0], gpu=replace(kinds[0].gpu, price_per_h=kinds[0].gpu.price_per_h * 0.6))
    assert cost(kinds=[cheap, *kinds[1:]], gpus_max={scarce: most + fewer}) <= plenty + 1e-6


@pytest.mark.parametrize(("quantity", "factor"), [("attainment", 0.999), ("rate", 1.3)])
def test_more_traffic_and_higher_attainment_are_never_cheaper(quantity: str, factor: float) -> None:
    offer = Offer(kinds=[FAST, PLAIN, SMALL])
    base = make_plan(CHAT, offer, TARGET)
    if quantity == "rate":
        more = make_plan(CHAT.at_rate(CHAT.rate_per_s * factor), offer, TARGET)
    else:
        more = make_plan(CHAT, offer, replace(TARGET, attainment=factor))
    assert more.cost_per_h >= base.cost_per_h


def test_a_plan_names_its_pools_promise_and_price() -> None:
    plan = make_plan(CHAT, Offer(kinds=[FAST, PLAIN, SMALL], gpus_max={"H100": 8, "A100": 16, "L4": 32}), TARGET)
    assert plan.outcome is Outcome.OPTIMAL
    assert plan.gap == 0
    assert plan.promise == pytest.approx(0.99)
    assert sum(pool.cost_per_h for pool in plan.pools) == pytest.approx(plan.cost_per_h)
    assert all(0 < pool.load <= 1 for pool in plan.pools)
    passing = [pool.request_share for pool in plan.pools if pool.phase in {Phase.PREFILL, Phase.MIXED}]
    assert sum(passing) == pytest.approx(1.0)


def test_what_no_gpu_serves_in_time_lowers_the_promise_and_is_not_paid_for() -> None:
    huge = Bucket(input_tokens=100_000, input_tokens_max=120_000, output_tokens=100, rate_per_s=1)
    plan = make_plan(Workload(buckets=(*CHAT.buckets, huge)), Offer(kinds=[FAST]), TARGET)
    assert plan.unreachable_share == pytest.approx(1 / 12)
    assert plan.promise == pytest.approx(0.99 * 11 / 12)
    assert plan.cost_per_h == make_plan(CHAT, Offer(kinds=[FAST]), TARGET).cost_per_h


def test_too_few_gpus_give_no_plan_and_say_what_share_they_carry() -> None:
    offer = Offer(kinds=[PLAIN], gpus_max={"A100": 2})
    assert make_plan(CHAT, offer, TARGET).outcome is Outcome.IMPOSSIBLE
    share = rate_share_max(CHAT, offer, TARGET)
    assert 0 < share < 1
    assert make_plan(CHAT.at_rate(CHAT.rate_per_s * share), offer, TARGET).outcome is Outcome.OPTIMAL


def test_a_bound_that_binds_is_named_with_what_loosening_it_saves() -> None:
    offer = Offer(kinds=[FAST, PLAIN], gpus_max={"A100": 1})
    busy = CHAT.at_rate(60)
    plan = make_plan(busy, offer, TARGET)
    found = reliefs(plan)
    supply = next(relief for relief in found if relief.bound is Bound.SUPPLY)
    assert supply.what == "more than 1 A100"
    free = make_plan(busy, Offer(kinds=[FAST, PLAIN]), TARGET)
    assert supply.saved_per_h == pytest.approx(plan.cost_per_h - free.cost_per_h)
    assert [relief.saved_per_h for relief in found] == sorted((each.saved_per_h for each in found), reverse=True)


def test_a_mix_is_never_dearer_than_its_simpler_rivals() -> None:
    offer = Offer(kinds=[FAST, PLAIN, SMALL])
    plan = make_plan(CHAT, offer, TARGET)
    found = {rival.what: rival.cost_per_h for rival in rivals(plan, offer)}
    assert set(found) == {"H100 only", "A100 only", "L4 only", "no handoffs"}
    assert min(found.values()) >= plan.cost_per_h


def test_images_are_encoded_where_prompts_are_handed_over() -> None:
    pictures = Workload(buckets=(replace(CHAT.buckets[0], images=2.0, rate_per_s=20),))
    plan = make_plan(pictures, Offer(kinds=[PLAIN], phases=[Phase.ENCODE, Phase.PREFILL, Phase.DECODE]), TARGET)
    assert {pool.phase for pool in plan.pools} == {Phase.ENCODE, Phase.PREFILL, Phase.DECODE}
    blind = replace(PLAIN, encode_image_s=None)
    assert make_plan(pictures, Offer(kinds=[blind]), TARGET).outcome is Outcome.IMPOSSIBLE


def test_a_mixed_worker_leaves_images_to_cheap_encoders_where_that_costs_less() -> None:
    """One that has no room for the tower, or is dear to encode on, does all but encode."""
    pictures = Workload(buckets=(replace(CHAT.buckets[0], images=2.0, rate_per_s=20),))
    eyes = replace(SMALL, kv_tokens=0, encode_image_s=0.01)
    dear = replace(PLAIN, encode_image_s=0.1, tower_tokens=PLAIN.kv_tokens // 2)
    offer = Offer(kinds=[dear, eyes], phases=[Phase.ENCODE, Phase.MIXED, Phase.TOKENS])
    plan = make_plan(pictures, offer, TARGET)
    assert {pool.phase for pool in plan.pools} == {Phase.ENCODE, Phase.TOKENS}
    assert plan.cost_per_h < make_plan(pictures, replace(offer, phases=[Phase.MIXED]), TARGET).cost_per_h
    without = Workload(buckets=CHAT.buckets)
    assert {pool.phase for pool in make_plan(without, offer, TARGET).pools} == {Phase.MIXED}


def test_a_histogram_keeps_rate_and_tokens() -> None:
    generator = np.random.default_rng(1)
    prompts = generator.integers(1, 5000, 2000).tolist()
    outputs = generator.integers(1, 900, 2000).tolist()
    workload = histogram(prompts, outputs, rate_per_s=7.0)
    assert len(workload.buckets) == 60
    assert workload.rate_per_s == pytest.approx(7.0)
    mean = sum(each.rate_per_s * each.input_tokens for each in workload.buckets) / 7.0
    assert mean == pytest.approx(np.mean(prompts), rel=0.01)
    assert max(each.input_tokens_max for each in workload.buckets) == max(prompts)


@pytest.mark.parametrize(
    ("prompts", "outputs", "rate", "word"), [([], [], 1.0, "trace"), ([1], [1, 2], 1.0, "trace"), ([1], [1], 0, "rate")]
)
def test_a_bad_workload_is_named(prompts: list[int], outputs: list[int], rate: float, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        histogram(prompts, outputs, rate_per_s=rate)


@pytest.mark.parametrize(
    "target", [replace(TARGET, ttft_s=0.0), replace(TARGET, tpot_s=-1.0), replace(TARGET, attainment=1.0)]
)
def test_an_objective_out_of_range_is_refused(target: Target) -> None:
    with pytest.raises(ConfigError):
        make_plan(CHAT, Offer(kinds=[FAST]), target)
