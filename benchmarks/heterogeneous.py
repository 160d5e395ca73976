"""Goodput per dollar of mixed GPU classes under mixed SLO classes: Sluice's policy, every baseline, every fleet.

For each price vector a sum per hour may be spent. Every contender spends it as suits it best: which GPUs, how many,
in which roles (see `_layouts`: fleets of one class, xPyD and colocated chunked prefill are among them). That choice
is made on one draw of the trace; what is printed comes from others.

A request counts when its first token and every later token came by the deadlines of its class; refused ones are
misses; handoffs pay for their link. Goodput is the highest rate at which 90 % of all requests count, by bisection
to 2.5 %. One datasheet profile per GPU class for all policies, the same draws, predictions and chunk size.

    SLUICE_DATA=../shared/data python benchmarks/heterogeneous.py [--seeds 3] [--requests 3000] [--only list]
"""

import argparse
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from sluice.capacity.catalogue import gpu_class
from sluice.capacity.model_shape import ModelShape, shape_of
from sluice.domain.slo import SloClass, Urgency
from sluice.policy.registry import POLICIES, make_policy
from sluice.simulator.comparison import interval
from sluice.simulator.fleet_run import FleetRun
from sluice.simulator.instance_spec import InstanceSpec
from sluice.simulator.outcome import Fate
from sluice.simulator.pool_spec import EngineSettings, make_specs, parse_pools
from sluice.simulator.run_options import Objective, RunOptions
from sluice.simulator.step_source import StepSource
from sluice.simulator.traces.source import read_trace
from sluice.simulator.workload import Workload

DATA: Final = Path(os.environ.get("SLUICE_DATA", "../shared/data"))
AZURE: Final = "azure/AzureLLMInferenceTrace_conv.csv"
ARXIV: Final = "vidur/processed_traces/arxiv_summarization.csv"
SHARE: Final = 0.9  # of all requests must count
RATE_STEP: Final = 0.025
RATE_MIN: Final = 0.1
NEAR: Final = 2.0  # requests per second and dollar per hour: where searches start
SEARCH_SEED: Final = 100
HOUR_S: Final = 3600.0
OURS: Final = "joint"
FIRST: Final = ("lmetric", "dynamo", "xllm", "least_load")  # a high lead early saves others their measurement
BASELINES: Final = [*FIRST, *(name for name in POLICIES if name not in {OURS, *FIRST})]

CLASSES: Final = (
    SloClass(name="interactive", urgency=Urgency.INTERACTIVE, ttft_s=0.5, tpot_s=0.03),
    SloClass(name="standard", urgency=Urgency.STANDARD, ttft_s=2.0, tpot_s=0.1),
    SloClass(name="batch", urgency=Urgency.BATCH, ttft_s=20.0, tpot_s=0.5),
)
MIX: Final = (0.4, 0.3, 0.3)


class Case(NamedTuple):
    """What may be bought, dollars per hour and GPU, and for what."""

    trace: str
    prices: dict[str, float]
    spend_per_h: float


CASES: Final = {
    "A100 and L40S, list prices": Case(AZURE, {"A100": 3.67, "L40S": 1.86}, 15.0),
    "A100 and L40S, 2.0 and 1.2": Case(AZURE, {"A100": 2.00, "L40S": 1.20}, 9.2),
    "A100 and L40S, 1.3 and 0.8": Case(AZURE, {"A100": 1.30, "L40S": 0.80}, 6.0),
    "H20 and L40S, list prices": Case(AZURE, {"H20": 4.00, "L40S": 1.86}, 15.6),
}


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas as `sluice simulate --pools` writes them, and what they cost."""

    pools: str
    price_per_h: float
    is_homogeneous: bool


class Contender(NamedTuple):
    """A policy on a fleet."""

    policy: str
    fleet: Fleet
    may_refuse: bool = False  # whether the classes let a policy refuse early


def fleets(case: Case) -> Iterator[Fleet]:
    """All ways to spend the money: counts that leave too little for one more of the cheapest, in every layout."""
    names = list(case.prices)
    cheapest = min(case.prices.values())
    for counts in _counts([case.prices[name] for name in names], case.spend_per_h):
        cost = sum(case.prices[name] * count for name, count in zip(names, counts, strict=True))
        if case.spend_per_h - cost >= cheapest:
            continue
        bought = {name: count for name, count in zip(names, counts, strict=True) if count}
        for pools in _layouts(bought):
            yield Fleet(pools, cost, len(bought) == 1)


def _counts(prices: Sequence[float], money: float) -> Iterator[tuple[int, ...]]:
    if not prices:
        yield ()
        return
    for count in range(int(money / prices[0] + 1e-9) + 1):
        for rest in _counts(prices[1:], money - count * prices[0]):
            yield (count, *rest)


def _layouts(bought: dict[str, int]) -> Iterator[str]:
    """One class: all mixed, and every xPyD. Several: the one with most bandwidth for its FLOP/s mixed or decoding,
    each of the others mixed, prefilling, or half of it each."""
    if len(bought) == 1:
        ((name, count),) = bought.items()
        yield f"{name}:{count}m"
        for prefill in range(1, count):
            yield f"{name}:{prefill}p+{count - prefill}d"
        return
    decode, *others = sorted(bought, key=lambda name: -gpu_class(name).memory_bytes_per_s / gpu_class(name).flop_per_s)
    for role in "md":
        for rest in itertools.product(*(_ways(name, bought[name]) for name in others)):
            yield ",".join([f"{decode}:{bought[decode]}{role}", *rest])


def _ways(name: str, count: int) -> Iterator[str]:
    yield f"{name}:{count}m"
    yield f"{name}:{count}p"
    if count > 1:
        yield f"{name}:{count // 2}p+{count - count // 2}m"


class _HopelessError(Exception):
    """More requests have missed than may."""


class Bench:
    """One case: replays, and the rates they carry."""

    def __init__(self, case: Case, *, requests: int) -> None:
        self._case = case
        self._requests = requests  # of a draw; the search takes half of it
        self._shape: ModelShape = shape_of("Llama-3.1-8B")
        self._specs: dict[str, list[InstanceSpec]] = {}
        self._workload = cache(self._drawn)
        self.runs = 0

    def _drawn(self, seed: int) -> Workload:
        requests = self._requests // 2 if seed == SEARCH_SEED else self._requests
        trace = read_trace(str(DATA / self._case.trace), rate=10.0, seed=seed, requests_max=requests)
        return trace.resampled(seed).with_classes(MIX, seed=seed)

    def specs(self, fleet: Fleet) -> list[InstanceSpec]:
        """The fleet's replicas."""
        if fleet.pools not in self._specs:
            self._specs[fleet.pools] = make_specs(
                parse_pools(fleet.pools),
                shape=self._shape,
                source=StepSource([]),
                settings=EngineSettings(step_tokens_max=512),
                prices=self._case.prices,
            )
        return self._specs[fleet.pools]

    def attained(self, one: Contender, *, seed: int, rate: float) -> tuple[float, ...]:
        """The share of requests that count, of all and by class; 0 as soon as they are too few for SHARE."""
        self.runs += 1
        classes = tuple(replace(each, refuse_above=1.0) if one.may_refuse else each for each in CLASSES)
        run = FleetRun(
            specs=self.specs(one.fleet),
            workload=self._workload(seed).at_rate(rate),
            policy=make_policy(one.policy),
            options=RunOptions(objective=Objective(classes=classes)),
        )

        def look(_arrived: int) -> None:
            outcome = run.outcome
            missed = int((outcome.late_tokens > 0).sum() + (outcome.fate == Fate.REJECTED).sum())
            if missed > (1 - SHARE) * len(outcome):
                raise _HopelessError

        try:
            result = run.run(look)
        except _HopelessError:
            return (0.0,)
        met, number = result.outcome.meets_deadlines(), result.workload.slo_class
        return float(met.mean()), *(float(met[number == each].mean()) for each in range(len(CLASSES)))

    def carries(self, one: Contender, *, seed: int, rate: float) -> bool:
        """Whether SHARE of requests count at this rate."""
        return self.attained(one, seed=seed, rate=rate)[0] >= SHARE

    def rate(self, one: Contender, *, seed: int, near: float) -> float:
        """The highest rate it carries, to RATE_STEP, found from one that may be near it."""
        low = high = max(near, RATE_MIN)
        while self.carries(one, seed=seed, rate=high):
            low, high = high, high * 1.2
        while low >= high:
            low /= 1.2
            if low < RATE_MIN:
                return 0.0
            if not self.carries(one, seed=seed, rate=low):
                high = low
        while high - low > RATE_STEP * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self.carries(one, seed=seed, rate=middle) else (low, middle)
        return low


def race(bench: Bench, contenders: Sequence[Contender], *, near: float) -> tuple[Contender, float]:
    """Who carries most per dollar on the search's draw; whoever cannot carry more than the leader is not measured."""
    leader, lead = contenders[0], 0.0
    for one in contenders:
        rate = one.fleet.price_per_h * (lead * (1 + RATE_STEP) if lead else near)
        if not lead or bench.carries(one, seed=SEARCH_SEED, rate=rate):
            leader, lead = one, bench.rate(one, seed=SEARCH_SEED, near=rate) / one.fleet.price_per_h
    return leader, lead


def compare(name: str, case: Case, *, seeds: int, requests: int, policies: Sequence[str]) -> None:
    """One case: ours, the best of all baselines on all fleets, the best of all policies on fleets of one class."""
    bench = Bench(case, requests=requests)
    options = list(fleets(case))
    single = [each for each in options if each.is_homogeneous]
    fields = {
        "joint": [Contender(OURS, each) for each in options],
        "joint, may refuse": [Contender(OURS, each, may_refuse=True) for each in options],
        "best baseline": [Contender(policy, each) for policy in policies for each in options],
        "best of one class": [
            *(Contender(policy, each) for policy in (OURS, *policies) for each in single),
            *(Contender(OURS, each, may_refuse=True) for each in single),
        ],
    }
    print(f"{name}: ${case.spend_per_h:g}/h, {len(options)} fleets", flush=True)
    started_s = time.process_time()
    ours: dict[str, list[float]] = {}
    for title, contenders in fields.items():
        leader, lead = race(bench, contenders, near=NEAR)
        price_per_h = leader.fleet.price_per_h
        rates = [bench.rate(leader, seed=seed, near=lead * price_per_h) for seed in range(seeds)]
        values = [HOUR_S * SHARE * rate / price_per_h for rate in rates]
        shares = bench.attained(leader, seed=0, rate=rates[0])
        leads = "".join(
            f"  {mine} leads by {interval([a / b - 1 for a, b in zip(own, values, strict=True)])}"
            for mine, own in ours.items()
        )
        print(f"  {title:18} {interval(values)!s:>14}  {leader.policy} on {leader.fleet.pools}{leads}")
        print(f"  {'':18} by class {', '.join(f'{each:.0%}' for each in shares[1:])}", flush=True)
        if len(ours) < 2:
            ours[title] = values
    print(f"  {bench.runs} replays, {time.process_time() - started_s:.0f} s of CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--policies", nargs="+", default=BASELINES)
    arguments = parser.parse_args()
    for name, case in CASES.items():
        if arguments.only in name:
            compare(name, case, seeds=arguments.seeds, requests=arguments.requests, policies=arguments.policies)


if __name__ == "__main__":
    main()
