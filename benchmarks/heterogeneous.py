"""Goodput per dollar of mixed GPU classes under mixed SLO classes: Sluice's policy, every baseline, every layout.

Fleets of about equal price: of one class, and of two. On each, every policy has the roles that suit it best
(`layouts`: all mixed, which is colocated chunked prefill; every xPyD; for two classes the one with more bandwidth
mixed or decoding, the other mixed, prefilling, or half of each). That choice is made on one draw of the trace;
what is printed comes from others. Rates do not depend on prices: each price vector picks among the same fleets.

A request counts when its first token and every later token came by the deadlines of its class; refused ones are
misses; handoffs pay for their link. Goodput is the highest rate at which 90 % of all requests count, by bisection
to 2.5 %. One datasheet profile per GPU class for all policies, the same draws and predictions. `joint` runs on Sluice's
paced steps; every baseline on those or on fixed chunks of 512 or 2,048 tokens in order of arrival (as vLLM and SGLang
have them), whatever suits it best; `joint` on fixed chunks is shown as well.

    SLUICE_DATA=../shared/data python benchmarks/heterogeneous.py [--seeds 3] [--requests 2000]
"""

import argparse
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from sluice.capacity.catalogue import gpu_class
from sluice.capacity.model_shape import ModelShape, shape_of
from sluice.domain.slo import SloClass, Urgency
from sluice.policy.registry import POLICIES, make_policy
from sluice.simulator.comparison import interval
from sluice.simulator.fleet_run import FleetRun
from sluice.simulator.instance_spec import InstanceSpec, StepOrder
from sluice.simulator.outcome import Fate
from sluice.simulator.pool_spec import EngineSettings, make_specs, parse_pools
from sluice.simulator.run_options import Objective, RunOptions
from sluice.simulator.step_source import StepSource
from sluice.simulator.traces.source import read_trace
from sluice.simulator.workload import Workload

DATA: Final = Path(os.environ.get("SLUICE_DATA", "../shared/data"))
AZURE: Final = "azure/AzureLLMInferenceTrace_conv.csv"
SHARE: Final = 0.9  # of all requests must count
RATE_STEP: Final = 0.025
RATE_MIN: Final = 0.1
NEAR: Final = 30.0  # requests per second: where searches start
SEARCH_SEED: Final = 100
HOUR_S: Final = 3600.0
OURS: Final = "joint"
REFUSING: Final = "joint, may refuse"
CHUNKED: Final = "joint, may refuse, chunked steps"
BASELINE: Final = "best baseline"
FIRST: Final = ("lmetric", "dynamo", "xllm", "least_load")  # a high lead early saves others their measurement
BASELINES: Final = [*FIRST, *(name for name in POLICIES if name not in {OURS, *FIRST})]

CLASSES: Final = (
    SloClass(name="interactive", urgency=Urgency.INTERACTIVE, ttft_s=0.5, tpot_s=0.03),
    SloClass(name="standard", urgency=Urgency.STANDARD, ttft_s=2.0, tpot_s=0.1),
    SloClass(name="batch", urgency=Urgency.BATCH, ttft_s=20.0, tpot_s=0.5),
)
MIX: Final = (0.4, 0.3, 0.3)


PRICES: Final = (  # dollars per hour and GPU
    {"A100": 3.67, "L40S": 1.86},  # the catalogue's
    {"A100": 2.00, "L40S": 1.20},
    {"A100": 1.30, "L40S": 0.80},
)
COMPOSITIONS: Final = ({"L40S": 8}, {"A100": 4}, {"A100": 1, "L40S": 6}, {"A100": 2, "L40S": 4})


PACED: Final = EngineSettings(step_tokens_max=2048)
STEPS: Final = (
    EngineSettings(step_tokens_max=512, step_order=StepOrder.CHUNKED),
    EngineSettings(step_tokens_max=2048, step_order=StepOrder.CHUNKED),
    PACED,
)


class Contender(NamedTuple):
    """A policy on a fleet, written as `sluice simulate --pools` has it."""

    policy: str
    pools: str
    steps: EngineSettings = PACED
    may_refuse: bool = False  # whether the classes let a policy refuse early


def layouts(bought: dict[str, int]) -> Iterator[str]:
    """The roles a composition may have, see the module."""
    if len(bought) == 1:
        ((name, count),) = bought.items()
        yield f"{name}:{count}m"
        for prefill in range(1, count):
            yield f"{name}:{prefill}p+{count - prefill}d"
        return
    decode, other = sorted(bought, key=lambda name: -gpu_class(name).memory_bytes_per_s / gpu_class(name).flop_per_s)
    count = bought[other]
    for role in "md":
        for way in (f"{count}m", f"{count}p", f"{count // 2}p+{count - count // 2}m"):
            yield f"{decode}:{bought[decode]}{role},{other}:{way}"


class _HopelessError(Exception):
    """More requests have missed than may."""


class Bench:
    """Replays, and the rates they carry."""

    def __init__(self, *, requests: int) -> None:
        self._requests = requests
        self._shape: ModelShape = shape_of("Llama-3.1-8B")
        self._specs: dict[tuple[str, EngineSettings], list[InstanceSpec]] = {}
        self._workload = cache(self._drawn)
        self.runs = 0

    def _drawn(self, seed: int) -> Workload:
        trace = read_trace(str(DATA / AZURE), rate=10.0, seed=seed, requests_max=self._requests)
        return trace.resampled(seed).with_classes(MIX, seed=seed)

    def specs(self, pools: str, steps: EngineSettings) -> list[InstanceSpec]:
        """The fleet's replicas."""
        if (pools, steps) not in self._specs:
            self._specs[pools, steps] = make_specs(
                parse_pools(pools),
                shape=self._shape,
                source=StepSource([]),
                settings=steps,
                prices=PRICES[0],
            )
        return self._specs[pools, steps]

    def attained(self, one: Contender, *, seed: int, rate: float) -> tuple[float, ...]:
        """The share of requests that count, of all and by class; 0 as soon as they are too few for SHARE."""
        self.runs += 1
        classes = tuple(replace(each, refuse_above=1.0) if one.may_refuse else each for each in CLASSES)
        run = FleetRun(
            specs=self.specs(one.pools, one.steps),
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
    """Who carries most on the search's draw; whoever cannot carry more than the leader is not measured."""
    leader, lead = contenders[0], 0.0
    for one in contenders:
        rate = lead * (1 + RATE_STEP) if lead else near
        if not lead or bench.carries(one, seed=SEARCH_SEED, rate=rate):
            leader, lead = one, bench.rate(one, seed=SEARCH_SEED, near=rate)
    return leader, lead


def groups(composition: dict[str, int], policies: Sequence[str]) -> dict[str, list[Contender]]:
    """Who competes on one composition."""
    ways = list(layouts(composition))
    return {
        OURS: [Contender(OURS, way) for way in ways],
        REFUSING: [Contender(OURS, way, may_refuse=True) for way in ways],
        CHUNKED: [Contender(OURS, way, steps, may_refuse=True) for steps in STEPS[:2] for way in ways],
        BASELINE: [Contender(policy, way, steps) for policy in policies for steps in STEPS for way in ways],
    }


def cost_per_h(composition: dict[str, int], prices: dict[str, float]) -> float:
    """Dollars."""
    return sum(prices[name] * count for name, count in composition.items())


def report(prices: dict[str, float], rates: dict[tuple[int, str], list[float]]) -> None:
    """For one price vector: the best composition of every group, and of one class; who leads by how much."""
    per_dollar = {
        (at, group): [HOUR_S * SHARE * rate / cost_per_h(COMPOSITIONS[at], prices) for rate in by_seed]
        for (at, group), by_seed in rates.items()
    }
    mean = {key: statistics.fmean(values) for key, values in per_dollar.items()}
    single = [key for key in mean if len(COMPOSITIONS[key[0]]) == 1]
    rivals = {
        BASELINE: max((key for key in mean if key[1] == BASELINE), key=mean.__getitem__),
        "one class": max((key for key in single if key[1] in {OURS, BASELINE}), key=mean.__getitem__),
        "one class, may refuse": max(single, key=mean.__getitem__),
    }
    print(", ".join(f"{name} ${price:g}/h" for name, price in prices.items()))
    for title, key in rivals.items():
        print(f"  {title:32} {mean[key]:7.0f} per dollar  {key[1]} on {COMPOSITIONS[key[0]]}")
    for group in (OURS, REFUSING, CHUNKED):
        best = max((key for key in mean if key[1] == group), key=mean.__getitem__)
        print(f"  {group:32} {mean[best]:7.0f} per dollar  on {COMPOSITIONS[best[0]]}")
        for title, key in rivals.items():
            leads = [a / b - 1 for a, b in zip(per_dollar[best], per_dollar[key], strict=True)]
            print(f"    leads {title} by {interval([100 * lead for lead in leads])} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--policies", nargs="+", default=BASELINES)
    arguments = parser.parse_args()
    bench = Bench(requests=arguments.requests)
    rates: dict[tuple[int, str], list[float]] = {}
    for at, composition in enumerate(COMPOSITIONS):
        for group, contenders in groups(composition, arguments.policies).items():
            leader, lead = race(bench, contenders, near=NEAR)
            found = rates[at, group] = [bench.rate(leader, seed=seed, near=lead) for seed in range(arguments.seeds)]
            shares = ", ".join(f"{each:.0%}" for each in bench.attained(leader, seed=0, rate=found[0])[1:])
            print(
                f"{leader.policy:12} {leader.pools:22} "
                f"{leader.steps.step_order.value:7} {leader.steps.step_tokens_max:4}  "
                f"{group:32} {interval(found)} /s; by class {shares}",
                flush=True,
            )
    for prices in PRICES:
        report(prices, rates)


if __name__ == "__main__":
    main()
