"""Goodput per dollar on ServeGen's image traffic: cheap encoders beside GPUs, against the strong colocated fleet.

The strong fleet holds the vision tower on every GPU, shares a request's images over all of them, and batches;
its step and image budgets are searched for, as are those of the others. Same engine model (datasheets), same
policy, same draws. Goodput is the highest rate at which 90 % of requests meet TTFT and TPOT, rejects counted as
misses; dollars are those of the whole fleet. A budget is chosen on a draw that is not evaluated.

    SLUICE_DATA=../shared/data python benchmarks/encode_pool.py [--seeds 3] [--requests 600]
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sluice.capacity.catalogue import gpu_class
from sluice.capacity.encode_curve import datasheet_curve
from sluice.capacity.model_shape import shape_of
from sluice.capacity.vision_shape import vision_shape
from sluice.domain.slo import SloClass, Urgency
from sluice.policy.registry import make_policy
from sluice.simulator.comparison import interval
from sluice.simulator.fleet_run import FleetRun
from sluice.simulator.pool_spec import EngineSettings, make_specs, parse_pools
from sluice.simulator.run_options import Objective, RunOptions
from sluice.simulator.step_source import StepSource
from sluice.simulator.study import RATE_STEP
from sluice.simulator.summary import Goal, Summary, summarise
from sluice.simulator.traces.source import read_trace

TRACE = Path(os.environ.get("SLUICE_DATA", "../shared/data")) / "servegen" / "multimodal" / "mm-image"
SHARE = 0.9
DURATION_S = 60.0  # of arrivals, at least: a shorter replay hides queues that grow
STEP_TOKENS = (1024, 2048)
IMAGE_TOKENS = (512, 1024, 4096)
CHOOSING_SEED = 1000
MODELS = (("Qwen2-7B", "Qwen2-VL"), ("InternLM2-20B", "InternViT-6B"))
COLOCATED = "H100:1m"
FLEETS = {
    "Qwen2-VL": (COLOCATED, "H100:1m,RTX-4090:1e", "H100:1m,RTX-4090:2e", "H100:1m,L4:2e", "H100:1m,A10G:2e"),
    "InternViT-6B": (COLOCATED, "H100:1m,RTX-4090:2e", "H100:1m,RTX-4090:4e", "H100:1m,L4:4e", "H100:1m,A10G:2e"),
}


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
        workload = read_trace(str(TRACE), rate=rate, seed=seed, requests_max=max(self.requests, int(DURATION_S * rate)))
        options = RunOptions(objective=self.objective)
        run = FleetRun(specs=specs, workload=workload, policy=make_policy("joint"), options=options)
        return summarise(run.run(), (Goal.TTFT, Goal.TPOT)), run

    def highest_rate(self, *, seed: int, low: float) -> float:
        """Requests per second that 90 % survive."""
        high = 2 * low
        while self._attains(high, seed):
            low, high = high, 2 * high
        while high - low > 2 * RATE_STEP * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self._attains(middle, seed) else (low, middle)
        return low

    def _attains(self, rate: float, seed: int) -> bool:
        return self.run(rate=rate, seed=seed)[0].attained_all >= SHARE


def best(questions: Sequence[Question], *, low: float) -> Question:
    """The budgets with the highest rate on a draw of their own."""
    return max(questions, key=lambda question: question.highest_rate(seed=CHOOSING_SEED, low=low))


def main() -> None:
    """Prints a table a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--ttft", type=float, default=2.0)
    parser.add_argument("--tpot", type=float, default=0.05)
    args = parser.parse_args()
    if not TRACE.is_dir():
        sys.exit(f"{TRACE} is missing: set SLUICE_DATA to the folder of public traces")
    slo = SloClass(name="images", urgency=Urgency.STANDARD, ttft_s=args.ttft, tpot_s=args.tpot)
    for model, tower in MODELS:
        names = ("H100", "RTX-4090", "L4", "A10G")
        curves = {name: datasheet_curve(gpu_class(name), vision_shape(tower)) for name in names}
        costs = ", ".join(
            f"{name} {1e3 * seconds:.0f} ms (${gpu_class(name).price_per_h * seconds:.3f}/h)"
            for name, seconds in ((name, curve.encode_s([480])) for name, curve in curves.items())
        )
        print(f"\n{tower} + {model}, TTFT {args.ttft:g} s, TPOT {args.tpot:g} s.")
        print(f"An image of 480 tokens, one a second: {costs}.\n")
        print("| fleet | $/h | budgets | requests/s | per $/h | against colocated | where images went |")
        print("| --- | --: | --- | --: | --: | --: | --- |")
        base: list[float] = []
        for pools in FLEETS[tower]:
            grid = [
                Question(
                    pools=pools, model=model, tower=tower, step_tokens=step, image_tokens=image,
                    objective=Objective(slo=slo), requests=args.requests,
                )
                for step in STEP_TOKENS
                for image in IMAGE_TOKENS
            ]  # fmt: skip
            chosen = best(grid, low=1.0)
            rates = [chosen.highest_rate(seed=seed, low=1.0) for seed in range(args.seeds)]
            summary, run = chosen.run(rate=fmean(rates), seed=0)
            per_dollar = [rate / summary.price_per_h for rate in rates]
            base = base or per_dollar
            gain = interval([mine / other for mine, other in zip(per_dollar, base, strict=True)])
            total = max(1, sum(run.encodes.ways.values()))
            ways = ", ".join(f"{way.value} {100 * n / total:.0f} %" for way, n in run.encodes.ways.items() if n)
            budgets = f"{chosen.step_tokens}, {chosen.image_tokens}"
            print(
                f"| {pools} | {summary.price_per_h:.2f} | {budgets} | {fmean(rates):.1f} | {fmean(per_dollar):.3f} "
                f"| {gain} | {ways} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
