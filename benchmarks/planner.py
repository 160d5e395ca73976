"""Seconds to the proven cheapest plan: 480 slices, six GPU classes at three degrees, every phase.

Shares of any size, as the planner solves it; beside them, in the same run, each within a limit of time on the wall:
shares in eighths, and a yes or no for every one of 480 slices and kind, as Melange (arXiv 2404.14527) writes it down.
Random workloads by seed; round GPU figures.

    python benchmarks/planner.py [--seeds 3] [--rates 5 20 80] [--trunks]
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sluice.capacity.gpu_class import GpuClass
from sluice.capacity.step_curve import StepCurve
from sluice.planner import problem as problems
from sluice.planner import solver
from sluice.planner.problem import Problem
from sluice.planner.replica_kind import ReplicaKind
from sluice.planner.throughput import Target
from sluice.planner.workload import Workload, histogram

# name, price $/h, memory GB, dense bf16 TFLOP/s, memory TB/s, link GB/s: datasheet figures rounded, 2024 prices
CLASSES = [
    ("L4", 0.70, 24, 121, 0.30, 3),
    ("A10G", 1.01, 24, 70, 0.60, 3),
    ("L40S", 1.90, 48, 362, 0.86, 12),
    ("A100", 3.67, 80, 312, 2.04, 25),
    ("H100", 7.516, 80, 989, 3.35, 50),
    ("H200", 9.00, 141, 989, 4.80, 50),
]
DEGREES = (1, 2, 4)
PARAMETERS = 8.03e9  # an 8B model
KV_TOKEN_BYTES = 131_072
OURS_S = 600.0  # on the wall: never reached; CPU time is what is printed
SLICES = 8  # of each bucket, Melange's factor: 480 in all
TARGET = Target(ttft_s=1.0, tpot_s=0.05)


def kinds() -> list[ReplicaKind]:
    """Six classes, three degrees: half of peak FLOP/s, 80 % of peak bandwidth, 6 % lost with each doubling."""
    found = []
    for name, price, gigabytes, teraflops, terabytes, link in CLASSES:
        gpu = GpuClass(
            name=name,
            memory_bytes=gigabytes * 10**9,
            flop_per_s=teraflops * 1e12,
            memory_bytes_per_s=terabytes * 1e12,
            link_bytes_per_s=link * 1e9,
            price_per_h=price,
        )
        for degree in DEGREES:
            speed = degree * 0.94 ** (degree.bit_length() - 1)
            flops, bandwidth = 0.5 * teraflops * 1e12 * speed, 0.8 * terabytes * 1e12 * speed
            curve = StepCurve(
                base_s=2 * PARAMETERS / bandwidth + 1e-3,
                prefill_token_s=2 * PARAMETERS / flops,
                pair_s=4 * 4096 * 32 / flops,
                decode_s=2 * PARAMETERS / flops + 1e-5,
                context_token_s=KV_TOKEN_BYTES / bandwidth,
            )
            tokens = int((0.9 * gigabytes * 1e9 * degree - 2 * PARAMETERS) / KV_TOKEN_BYTES)
            found.append(
                ReplicaKind(
                    gpu=gpu,
                    tensor_parallel=degree,
                    model=curve,
                    kv_tokens=tokens,
                    kv_token_bytes=KV_TOKEN_BYTES,
                    encode_image_s=2e12 * 2 / flops,
                )
            )
    return found


def workload(seed: int, rate_per_s: float) -> Workload:
    """Log-normal lengths; every request of the longer half of prompts has images or none has, by bucket."""
    generator = np.random.default_rng(seed)
    prompts = np.clip(generator.lognormal(6.6, 1.1, 20_000), 8, 12_000).astype(int).tolist()
    outputs = np.clip(generator.lognormal(5.0, 0.9, 20_000), 2, 1_500).astype(int).tolist()
    mix = histogram(prompts, outputs, rate_per_s=rate_per_s)
    return Workload(
        buckets=tuple(replace(each, images=1.0) if i % 3 == 0 else each for i, each in enumerate(mix.buckets))
    )


def in_eighths(problem: Problem) -> Problem:
    """The same with shares in eighths."""
    return replace(problem, slices_per_bucket=SLICES)


def one_by_one(problem: Problem) -> Problem:
    """The same program with every slice a bucket of its own: Melange's binary variables."""
    times = SLICES
    buckets = [
        replace(each, rate_per_s=each.rate_per_s / times) for each in problem.workload.buckets for _ in range(times)
    ]
    return replace(
        problem,
        workload=Workload(buckets=tuple(buckets)),
        loads={phase: np.repeat(table / times, times, axis=0) for phase, table in problem.loads.items()},
        limits={phase: [row for row in rows for _ in range(times)] for phase, rows in problem.limits.items()},
        slices_per_bucket=1,
    )


def timed(problem: Problem, solve_s_max: float) -> tuple[solver.Solution, float]:
    started_s = time.process_time()
    solution = solver.solve(problem, solve_s_max=solve_s_max)
    return solution, time.process_time() - started_s


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[5.0, 20.0, 80.0], help="requests/s")
    parser.add_argument("--trunks", action="store_true", help="bound the links between classes too")
    parser.add_argument("--peer-s", type=float, default=60.0, help="seconds on the wall each of the others may take")
    arguments = parser.parse_args(argv)
    ways = kinds()
    names = [each[0] for each in CLASSES]
    gpus_max = dict(zip(names, (64, 64, 48, 48, 32, 32), strict=True))
    trunks = {(a, b): 20e9 for a in names for b in names if a != b} if arguments.trunks else {}
    print(f"{len(ways)} ways of using GPUs, prefill, decode, encode and mixed; CPU seconds")
    print("            any share                                in eighths             one by one")
    print("rate  seed  $/h      loads s  solve s  proven  gap    $/h      s      gap    $/h      s      gap")
    spent: dict[str, list[float]] = {"any share": [], "in eighths": [], "one by one": []}
    for rate in arguments.rates:
        for seed in range(arguments.seeds):
            mix = workload(seed, rate)
            started_s = time.process_time()
            problem = problems.build(mix, ways, TARGET, gpus_max=gpus_max, trunks=trunks)
            build_s = time.process_time() - started_s
            ours, ours_s = timed(problem, OURS_S)
            eighths, eighths_s = timed(in_eighths(problem), arguments.peer_s)
            single, single_s = timed(one_by_one(problem), arguments.peer_s)
            spent["any share"].append(build_s + ours_s)
            spent["in eighths"].append(eighths_s)
            spent["one by one"].append(single_s)
            print(
                f"{rate:4.0f}  {seed:4}  {ours.cost_per_h:6.2f}  {build_s:7.2f}  {ours_s:7.2f}  "
                f"{ours.outcome.value:8} {ours.gap:4.1%}  "
                f"{eighths.cost_per_h:6.2f}  {eighths_s:5.1f}  {eighths.gap:5.1%}  "
                f"{single.cost_per_h:6.2f}  {single_s:5.1f}  {single.gap:5.1%}",
                flush=True,
            )
    for name, seconds in spent.items():
        print(f"{name}: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")


if __name__ == "__main__":
    main()
