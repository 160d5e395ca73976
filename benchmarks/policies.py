"""Every policy on the same fleets and requests: goodput, counted in requests that meet every objective.

TTFT, mean TPOT, every token's own deadline and the P99 gap must all hold; a refused request is a miss; one roofline
profile per GPU class for all policies; transfers are charged. All policies see the same draws; the interval is of the
difference to Sluice's own policy, seed by seed (Student's t, 95 %). `joint` runs on Sluice's paced steps; the others,
and `joint` once more, on 512 tokens a step in order of arrival.

    SLUICE_DATA=../shared/data python benchmarks/policies.py [--seeds 3] [--requests 800] [--only NAME] [--rivals A B]
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sluice.capacity.model_shape import shape_of
from sluice.cli.objectives import parse_objective
from sluice.policy.registry import make_policy
from sluice.simulator.comparison import interval, paired
from sluice.simulator.instance_spec import StepOrder
from sluice.simulator.pool_spec import EngineSettings, make_specs, parse_pools
from sluice.simulator.run_options import RunOptions
from sluice.simulator.step_source import StepSource
from sluice.simulator.study import Study
from sluice.simulator.summary import ALL_GOALS
from sluice.simulator.traces.source import read_trace
from sluice.simulator.workload import Workload

DATA = Path(os.environ.get("SLUICE_DATA", "../shared/data"))
AZURE = "azure/AzureLLMInferenceTrace_conv.csv"
MOONCAKE = "mooncake/conversation_trace.jsonl"
ARXIV = "vidur/processed_traces/arxiv_summarization.csv"
SERVEGEN = "servegen/multimodal/mm-image"
HOT = "synthetic:isl=4000,osl=150,prefix=0.9,groups=2,spread=0.3"  # two prefixes, nine tenths of every prompt
SHAREGPT = "sharegpt-lens/sharegpt_V3_format_lens.csv"
POLICIES = ("lmetric", "least_load", "dynamo", "prefix_aware", "llm_d", "polyserve", "xllm", "llumnix", "round_robin")


PACED = EngineSettings(step_tokens_max=2048)
CHUNKED = EngineSettings(step_tokens_max=512, step_order=StepOrder.CHUNKED)


class Case(NamedTuple):
    """One comparison: near what the fleet can carry, where policies differ."""

    trace: str
    pools: str
    rate: float
    slo: str
    stale_s: float = 0.0  # between two reports of a worker; 0: policies see the present


CASES = {
    "azure, 4 H100 colocated": Case(AZURE, "H100:4m", 95.0, "ttft=1,tpot=0.03,itl=0.06"),
    "mooncake, 4 H100 colocated": Case(MOONCAKE, "H100:4m", 4.7, "ttft=5,tpot=0.03,itl=0.06"),
    "arxiv, 4 H100 colocated": Case(ARXIV, "H100:4m", 43.0, "ttft=1,tpot=0.03,itl=0.06"),
    "servegen images, 4 H100 colocated": Case(SERVEGEN, "H100:4m", 94.0, "ttft=1,tpot=0.03,itl=0.06"),
    "sharegpt, 4 H100 colocated": Case(SHAREGPT, "H100:4m", 280.0, "ttft=1,tpot=0.03,itl=0.06"),
    "hot prefix, 8 L40S colocated": Case(HOT, "L40S:8m", 33.0, "ttft=1,tpot=0.05,itl=0.1"),
    "hot prefix, late reports": Case(HOT, "L40S:8m", 33.0, "ttft=1,tpot=0.05,itl=0.1", stale_s=1.0),
    "azure, late reports": Case(AZURE, "H100:4m", 90.0, "ttft=1,tpot=0.03,itl=0.06", stale_s=1.0),
    "azure, 1 prefill 3 decode H100": Case(AZURE, "H100:1p+3d", 50.0, "ttft=1,tpot=0.03,itl=0.06"),
    "azure, 3 prefill 1 decode H100": Case(AZURE, "H100:3p+1d", 50.0, "ttft=1,tpot=0.03,itl=0.06"),
    "azure, 2 H100 4 A100 colocated": Case(AZURE, "H100:2m,A100:4m", 85.0, "ttft=1,tpot=0.04,itl=0.08"),
}


def _path(trace: str) -> str:
    return trace if trace.startswith("synthetic") else str(DATA / trace)


def study(case: Case, settings: EngineSettings, requests: int) -> Study:
    specs = make_specs(
        parse_pools(case.pools),
        shape=shape_of("Llama-3.1-8B"),
        source=StepSource([]),
        settings=settings,
    )

    def workload(seed: int) -> Workload:
        trace = read_trace(_path(case.trace), rate=case.rate, seed=seed, requests_max=requests)
        return trace.resampled(seed)

    options = RunOptions(objective=parse_objective(case.slo), stale_s=case.stale_s)
    return Study(specs=specs, workload=workload, policy=make_policy, options=options, goals=ALL_GOALS)


def compare(name: str, case: Case, *, rivals: Sequence[str], seeds: int, requests: int) -> None:
    paced, chunked = study(case, PACED, requests), study(case, CHUNKED, requests)
    print(f"{name}: {case.rate:g} requests/s, {case.slo}")
    ours: list[float] = []
    for policy, question in (("joint", paced), *((policy, chunked) for policy in ("joint", *rivals))):
        runs = [question.summary(policy, seed=seed) for seed in range(seeds)]
        goodput = [run.goodput for run in runs]
        ours = ours or goodput
        per_dollar = interval([3600.0 * run.goodput / run.price_per_h for run in runs])
        share = interval([run.attained_all for run in runs]).mean
        steps = "paced" if question is paced else "chunked"
        lead = "" if question is paced else f"   joint leads by {paired(ours, goodput)}"
        print(
            f"  {policy:13} {steps:7} {share:6.1%}  {interval(goodput)} /s  {per_dollar.mean:8.0f} per dollar{lead}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=800)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rivals", nargs="+", default=POLICIES)
    arguments = parser.parse_args()
    for name, case in CASES.items():
        if arguments.only in name:
            compare(name, case, rivals=arguments.rivals, seeds=arguments.seeds, requests=arguments.requests)


if __name__ == "__main__":
    main()
