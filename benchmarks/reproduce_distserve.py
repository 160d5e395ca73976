"""DistServe's goodput per GPU beside colocated serving: as published, and with one engine for all.

    SLUICE_DATA=../shared/data python benchmarks/reproduce_distserve.py [--requests 1000] [--seeds 3]

OPT-13B on A100-80G, lengths of the Azure conversation trace up to 2,048 tokens, Poisson arrivals; the highest
rate per GPU at which 90 % (or 99 %) of requests meet their objectives. Every system takes its best token
budget of those tried (BUDGETS, or SMALL_TOO where chunks must be small) and its best layout of those named.
Step times are DistServe's published fits; `vllm` is the slower profile its simulator gives the baseline.

The first rows repeat the published comparison (mean TPOT, no transfer time, no chunks, all waiting prompts in
one step): the simulator of DistServe, run by us on the same lengths, gave 1.56 and 0.86 requests/s/GPU. The
others give everyone DistServe's profile, add chunked prefill, charge the transfer and judge each request's P99
gap beside its mean.
"""

import argparse
import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sluice.capacity.curve_fit import fit_model
from sluice.capacity.importers import distserve
from sluice.domain.role import Role
from sluice.domain.slo import SloClass, Urgency
from sluice.policy.registry import make_policy
from sluice.simulator.comparison import interval
from sluice.simulator.instance_spec import InstanceSpec, StepOrder
from sluice.simulator.run_options import Objective, RunOptions
from sluice.simulator.study import Study
from sluice.simulator.summary import Goal
from sluice.simulator.traces import arrivals
from sluice.simulator.traces.source import read_trace
from sluice.simulator.workload import Workload

DATA = Path(os.environ.get("SLUICE_DATA", "../shared/data"))
MODEL = "facebook/opt-13b"
KV_TOKEN_BYTES = 40 * 2 * 5120 * 2  # 40 layers, K and V, 5,120 channels, two bytes
TOKENS_MAX = 2048
BUDGETS = (512, 2048)
SMALL_TOO = (128, 256, 512)  # what a tight gap asks of chunks
WHOLE = (10**6,)  # every waiting prompt in one step, as DistServe's simulator does by default
INSTANT, NVLINK, ETHERNET = 1e15, 300e9, 25e9 / 8  # bytes/s
MEAN_ONLY = (Goal.TTFT, Goal.TPOT)
TAIL_TOO = (Goal.TTFT, Goal.TPOT, Goal.ITL)


@dataclass(frozen=True)
class Layout:
    """One way of using GPUs: (role, tensor parallelism) of each replica."""

    name: str
    replicas: tuple[tuple[Role, int], ...]
    order: StepOrder


P, D, M = Role.PREFILL, Role.DECODE, Role.MIXED
SPLIT = (
    Layout("1P1D", ((P, 1), (D, 1)), StepOrder.PREFILL_FIRST),
    Layout("2P1D", ((P, 1), (P, 1), (D, 1)), StepOrder.PREFILL_FIRST),
    Layout("P TP2, D TP1", ((P, 2), (D, 1)), StepOrder.PREFILL_FIRST),
    Layout("P TP2, D TP2", ((P, 2), (D, 2)), StepOrder.PREFILL_FIRST),
)
FIRST = (Layout("TP1", ((M, 1),), StepOrder.PREFILL_FIRST), Layout("TP2", ((M, 2),), StepOrder.PREFILL_FIRST))
CHUNKED = (Layout("TP1", ((M, 1),), StepOrder.CHUNKED), Layout("TP2", ((M, 2),), StepOrder.CHUNKED))
TP1 = FIRST[:1]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    system: str
    layouts: Sequence[Layout]
    profile: str = "distserve"
    link: float = INSTANT
    goals: Sequence[Goal] = MEAN_ONLY
    share: float = 0.9
    tpot_s: float = 0.1
    budgets: Sequence[int] = BUDGETS
    printed: str = ""


ROWS = (
    Row("DistServe, as published", SPLIT, budgets=WHOLE, printed="1.56"),
    Row("vLLM, as published", TP1, profile="vllm", budgets=WHOLE, printed="0.86"),
    Row("vLLM's profile, best TP", FIRST, profile="vllm", budgets=WHOLE, printed="1.29"),
    Row("same engine: prefill first", FIRST, budgets=WHOLE, printed="2.23"),
    Row("same engine: chunked", CHUNKED),
    Row("split, NVLink", SPLIT, link=NVLINK),
    Row("split, 25 Gb/s", SPLIT, link=ETHERNET),
    Row("prefill first, P99 gap too", FIRST, goals=TAIL_TOO),
    Row("chunked, P99 gap too", CHUNKED, goals=TAIL_TOO, budgets=SMALL_TOO),
    Row("split, NVLink, P99 gap too", SPLIT, link=NVLINK, goals=TAIL_TOO),
    Row("chunked, 40 ms, P99 gap too", CHUNKED, goals=TAIL_TOO, tpot_s=0.04, budgets=SMALL_TOO),
    Row("split, NVLink, 40 ms, P99 gap too", SPLIT, link=NVLINK, goals=TAIL_TOO, tpot_s=0.04),
    Row("chunked, 99 % of requests, P99 gap too", CHUNKED, goals=TAIL_TOO, share=0.99, budgets=SMALL_TOO),
    Row("split, NVLink, 99 %, P99 gap too", SPLIT, link=NVLINK, goals=TAIL_TOO, share=0.99),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    trace = read_trace(str(DATA / "azure/AzureLLMInferenceTrace_conv.csv"), rate=None, seed=0)
    trace = trace.no_longer_than(TOKENS_MAX)
    print(f"lengths: mean {trace.prompt_tokens.mean():.0f} / {trace.output_tokens.mean():.0f}\n")
    print("| system | best layout, budget | requests/s/GPU | printed or run with DistServe's simulator |")
    print("| --- | --- | --: | --: |", flush=True)
    for row in ROWS:
        name, values = best(row, trace, arguments.requests, arguments.seeds)
        print(f"| {row.system} | {name} | {interval(values)} | {row.printed} |", flush=True)


def best(row: Row, trace: Workload, requests: int, seeds: int) -> tuple[str, list[float]]:
    """The layout and budget with the highest goodput at the first seed; its goodput per GPU at every seed."""
    ways = [(layout, budget) for layout in row.layouts for budget in row.budgets]
    tried = {way: goodput(row, *way, trace, requests, 1) for way in ways}
    layout, budget = max(tried, key=lambda way: tried[way])
    others = [goodput(row, layout, budget, trace, requests, seed) for seed in range(2, seeds + 1)]
    return f"{layout.name}, {budget}", [tried[layout, budget], *others]


def goodput(row: Row, layout: Layout, budget: int, trace: Workload, requests: int, seed: int) -> float:  # noqa: PLR0917
    """Highest rate per GPU that attains the row's share."""
    specs = [spec(row, layout, role, degree, budget) for role, degree in layout.replicas]
    slo = SloClass(name="chat", urgency=Urgency.STANDARD, ttft_s=0.25, tpot_s=row.tpot_s)
    options = RunOptions(objective=Objective(slo=slo, itl_s=row.tpot_s), tend_every_s=0.0, retry_every_s=0.005)
    study = Study(
        specs=specs,
        workload=lambda seed: poisson(trace, requests, seed),
        policy=make_policy,
        options=options,
        goals=row.goals,
    )
    gpus = sum(degree for _, degree in layout.replicas)
    return study.rate_at("least_load", seed=seed, share=row.share, low=0.05 * gpus, high=2.0 * gpus) / gpus


def poisson(trace: Workload, requests: int, seed: int) -> Workload:
    """Requests drawn from the trace's lengths, one a second on average; the search sets the rate."""
    generator = np.random.default_rng(seed)
    drawn = generator.choice(len(trace), size=requests, replace=False)
    return replace(
        trace,
        arrival_s=arrivals.gamma(requests, rate=1.0, cv=1.0, generator=generator),
        prompt_tokens=trace.prompt_tokens[drawn],
        output_tokens=trace.output_tokens[drawn],
    )


def spec(row: Row, layout: Layout, role: Role, degree: int, budget: int) -> InstanceSpec:
    """One replica of A100s."""
    path = DATA / "distserve" / f"profiler-a100-80g.{row.profile}.json"
    model = distserve.read_profile(path, model=MODEL, tensor_parallel=degree)
    return InstanceSpec(
        name=f"A100x{degree} {role.value}",
        gpu_class=f"A100x{degree}",
        role=role,
        model=model,
        curve=fit_model(model),
        blocks=kv_tokens(degree) // 16,
        step_tokens_max=budget,
        batch_sequences_max=min(256, budget - 1),
        sequence_tokens_max=TOKENS_MAX,
        kv_token_bytes=KV_TOKEN_BYTES,
        link_bytes_per_s=row.link,
        link_latency_s=0.0 if row.link == INSTANT else 0.0005,
        gpus=degree,
        step_order=layout.order,
    )


def kv_tokens(degree: int) -> int:
    """KV tokens beside OPT-13B's weights, from DistServe's own table."""
    with (DATA / "distserve" / "max_num_tokens.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == MODEL and row["pp"] == "1"]
    return next(int(row["max_num_tokens"]) for row in rows if int(row["tp"]) == degree)


if __name__ == "__main__":
    main()
