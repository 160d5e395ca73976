"""Goodput per dollar on ServeGen's image traffic: cheap encoders beside GPUs, against the strong colocated fleet.

The strong fleet holds the vision tower on every GPU, shares a request's images over all of them, and batches;
its step and image budgets are searched for, as are those of the others. Same engine model (datasheets), same
policy, same draws. Goodput is the highest rate at which 90 % of requests meet TTFT and TPOT, rejects counted as
misses; dollars are those of the whole fleet. Budgets are chosen on a draw that is not evaluated. Fleets are written
as for `sluice simulate`: 4m have the tower where nobody else has it, 4em have it beside encoders, 3ep+1d split phases.

    SLUICE_DATA=../shared/data python benchmarks/encode_pool.py [--seeds 3] [--requests 600] [--tpot 0.05]
"""

import argparse
import functools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sluice.capacity.catalogue import gpu_class
from sluice.capacity.encode_curve import datasheet_curve
from sluice.capacity.model_shape import shape_of
from sluice.capacity.vision_shape import vision_shape
from sluice.domain.role import Role
from sluice.domain.slo import SloClass, Urgency
from sluice.policy.registry import make_policy
from sluice.simulator.comparison import Interval, interval
from sluice.simulator.fleet_run import FleetRun
from sluice.simulator.pool_spec import EngineSettings, make_specs, parse_pools
from sluice.simulator.run_options import Objective, RunOptions
from sluice.simulator.step_source import StepSource
from sluice.simulator.study import RATE_STEP
from sluice.simulator.summary import Goal, Summary, summarise
from sluice.simulator.traces.source import read_trace
from sluice.simulator.workload import Workload

TRACE = Path(os.environ.get("SLUICE_DATA", "../shared/data")) / "servegen" / "multimodal" / "mm-image"
SHARE = 0.9
DURATION_S = 45.0  # of arrivals: a shorter replay hides queues that grow
REQUESTS_MAX = 2500
STEP_TOKENS = (512, 1024, 2048)
IMAGE_TOKENS = (512, 2048)
CHOOSING_SEED = 1000
WIDER = 1.15  # how far a first bracket reaches from a guess
IMAGE = 311  # embeddings of the trace's mean image
GPUS = ("H100", "A100", "RTX-4090", "L4", "A10G")
# Per tower: the colocated fleet first, what it is compared with after it.
FLEETS = {
    ("InternLM2-20B", "InternViT-6B"): (
        ("H100:4m", "H100:3ep+1d", "H100:4m,RTX-4090:8e", "H100:4m,L4:12e", "H100:4em,A10G:4e"),
        (
            "A100:4m",
            "A100:3ep+1d",
            "A100:4m,RTX-4090:2e",
            "A100:4m,L4:3e",
            "A100:3p+1d,RTX-4090:3e",
            "A100:3p+1d,L4:4e",
        ),
    ),
    ("Qwen2-7B", "Qwen2-VL"): (("H100:2m", "H100:2m,RTX-4090:2e", "H100:2m,L4:3e"),),
}


@functools.cache
def draw(seed: int, requests: int) -> Workload:
    """One draw of the trace, long enough for every rate."""
    return read_trace(str(TRACE), rate=1.0, seed=seed, requests_max=requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One fleet serving one model, with one pair of budgets."""

    pools: str
    model: str
    tower: str
    step_tokens: int
    image_tokens: int
    objective: Objective
    requests: int

    def run(self, *, rate: float, seed: int) -> tuple[Summary, FleetRun]:
        """One replay."""
        settings = EngineSettings(
            step_tokens_max=self.step_tokens,
            vision=vision_shape(self.tower),
            encode_tokens_max=self.image_tokens,
        )
        specs = make_specs(parse_pools(self.pools), shape=shape_of(self.model), source=StepSource(), settings=settings)
        count = max(self.requests, min(REQUESTS_MAX, int(DURATION_S * rate)))
        workload = draw(seed, max(REQUESTS_MAX, self.requests)).first(count).at_rate(rate)
        options = RunOptions(objective=self.objective)
        run = FleetRun(specs=specs, workload=workload, policy=make_policy("joint"), options=options)
        return summarise(run.run(), (Goal.TTFT, Goal.TPOT)), run

    def attains(self, rate: float, *, seed: int) -> bool:
        """Whether 90 % of requests meet their objectives."""
        return self.run(rate=rate, seed=seed)[0].attained_all >= SHARE

    def highest_rate(self, *, seed: int, guess: float) -> float:
        """Requests per second that 90 % survive, to 2 %; best searched from near it."""
        low, high = guess / WIDER, guess * WIDER
        while not self.attains(low, seed=seed):
            low, high = low / WIDER**2, low
        while self.attains(high, seed=seed):
            low, high = high, high * WIDER**2
        while high - low > RATE_STEP * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self.attains(middle, seed=seed) else (low, middle)
        return low


def best(questions: Sequence[Question], *, guess: float) -> tuple[Question, float]:
    """The budgets with the highest rate on a draw of their own, and that rate: who does not beat the best so far
    is asked no further."""
    first, *others = questions
    rate = first.highest_rate(seed=CHOOSING_SEED, guess=guess)
    for question in others:
        higher = rate * (1 + RATE_STEP)
        if question.attains(higher, seed=CHOOSING_SEED):
            first, rate = question, question.highest_rate(seed=CHOOSING_SEED, guess=higher * WIDER)
    return first, rate


def gain(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """The ratio, seed by seed."""
    return interval([mine / other for mine, other in zip(ours, theirs, strict=True)])


def table(fleets: Sequence[str], model: str, tower: str, args: argparse.Namespace) -> None:
    """One colocated fleet and what it is compared with, a row each."""
    slo = SloClass(name="images", urgency=Urgency.STANDARD, ttft_s=args.ttft, tpot_s=args.tpot)
    print(
        "\n| fleet | $/h | budgets | requests/s | per $/h | to colocated | to the best without encoders | images went |"
    )
    print("| --- | --: | --- | --: | --: | --: | --: | --- |")
    base: list[float] = []
    without: list[float] = []  # the best fleet yet that has no encode replicas
    guess = 4.0
    for pools in fleets:
        grid = [
            Question(
                pools=pools, model=model, tower=tower, step_tokens=step, image_tokens=image,
                objective=Objective(slo=slo), requests=args.requests,
            )
            for step in STEP_TOKENS
            for image in IMAGE_TOKENS
        ]  # fmt: skip
        chosen, guess = best(grid, guess=guess)
        rates = [chosen.highest_rate(seed=seed, guess=guess) for seed in range(args.seeds)]
        summary, run = chosen.run(rate=fmean(rates), seed=0)
        per_dollar = [rate / summary.price_per_h for rate in rates]
        base = base or per_dollar
        if all(pool.role is not Role.ENCODE for pool in parse_pools(pools)) and fmean(per_dollar) > fmean(
            without or [0.0]
        ):
            without = per_dollar
        total = max(1, sum(run.encodes.ways.values()))
        ways = ", ".join(f"{way.value} {100 * n / total:.0f} %" for way, n in run.encodes.ways.items() if n)
        print(
            f"| {pools} | {summary.price_per_h:.2f} | {chosen.step_tokens}, {chosen.image_tokens} | {fmean(rates):.1f} "
            f"| {fmean(per_dollar):.3f} | {gain(per_dollar, base)} | {gain(per_dollar, without)} | {ways} |",
            flush=True,
        )


def main() -> None:
    """Prints a table a model and class of GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--ttft", type=float, default=2.0)
    parser.add_argument("--tpot", type=float, default=0.05)
    args = parser.parse_args()
    if not TRACE.is_dir():
        sys.exit(f"{TRACE} is missing: set SLUICE_DATA to the folder of public traces")
    started_s = time.process_time()
    for (model, tower), groups in FLEETS.items():
        curves = {name: datasheet_curve(gpu_class(name), vision_shape(tower)) for name in GPUS}
        seconds = {name: curve.encode_s([IMAGE]) - curve.batch_s for name, curve in curves.items()}
        costs = ", ".join(
            f"{name} {1e3 * image_s:.0f} ms (${gpu_class(name).price_per_h * image_s / 3.6:.3f})"
            for name, image_s in seconds.items()
        )
        print(f"\n{tower} + {model}, TTFT {args.ttft:g} s, TPOT {args.tpot:g} s.")
        print(f"An image of {IMAGE} tokens (a thousand of them): {costs}.")
        for fleets in groups:
            table(fleets, model, tower, args)
    print(f"\n{time.process_time() - started_s:.0f} s of CPU time")


if __name__ == "__main__":
    main()
