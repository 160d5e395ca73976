"""Whether plans keep their promise: planned on a trace, replayed with other arrivals than they were confirmed with.

For each trace, model, objective and price vector: plan, replay and replan as `sluice plan` does (three seeds), then
replay the chosen plan on three seeds it has not seen. Prints attainment over promise, and the cost beside the
best fleet of one class and the best without handoffs, each planned and confirmed by the same rounds.

    SLUICE_DATA=../shared/data python benchmarks/plan_attainment.py [--requests 2000]
"""

import argparse
import math
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from sluice.capacity.model_shape import shape_of
from sluice.cli.plan import confirmed, kinds_of, workload_of
from sluice.cli.plan_arguments import parse_gpus
from sluice.cli.plan_replay import Replay
from sluice.domain.slo import STANDARD
from sluice.planner.plan import Offer
from sluice.planner.throughput import Phase, Target
from sluice.planner.verification import Round, chosen
from sluice.policy.registry import make_policy
from sluice.simulator.run_options import Objective
from sluice.simulator.step_source import StepSource
from sluice.simulator.traces.source import read_trace
from sluice.simulator.workload import Workload

DATA = Path(os.environ.get("SLUICE_DATA", "../shared/data"))
PRICES = ("H100=7.516,A100=3.67,L4=0.70", "H100=4,A100=2.5,L4=0.70", "H100=3,A100=1.2,L4=0.40")
CASES = (  # trace, requests/s, model, degree, TTFT s, TPOT s
    ("synthetic:isl=1024,osl=256", 60.0, "Llama-3.1-8B", 1, 1.0, 0.05),
    ("azure/AzureLLMInferenceTrace_conv.csv", 60.0, "Llama-3.1-8B", 1, 1.0, 0.05),
    ("azure/AzureLLMInferenceTrace_conv.csv", 60.0, "Llama-3.1-8B", 1, 2.0, 0.1),
    ("vidur/processed_traces/arxiv_summarization.csv", 20.0, "Llama-3.1-8B", 1, 1.0, 0.05),
    ("azure/AzureLLMInferenceTrace_conv.csv", 15.0, "Qwen3-32B", 4, 2.0, 0.05),
)
SEEN, UNSEEN = (0, 1, 2), (11, 12, 13)


def confirmed_round(trace: Workload, offer: Offer, target: Target, objective: Objective) -> Round | None:
    """The cheapest plan that a replay on the seen seeds confirmed."""
    replay = Replay(trace=trace, seeds=SEEN, policy=partial(make_policy, "joint"), objective=objective)
    found = confirmed(replay, workload_of(trace), offer, target)
    best = chosen(list(found[1])) if found else None
    return best if best and best.is_kept else None


def row(case: tuple[str, float, str, int, float, float], prices: str, requests: int) -> tuple[float, float]:
    """One line; returns attainment over promise on unseen seeds, and cost over the best rival's."""
    name, rate, model, degree, ttft_s, tpot_s = case
    path = name if name.startswith("synthetic") else str(DATA / name)
    trace = read_trace(path, rate=rate, seed=0, requests_max=requests)
    objective = Objective(slo=replace(STANDARD, ttft_s=ttft_s, tpot_s=tpot_s))
    target = Target(ttft_s=ttft_s, tpot_s=tpot_s)
    offer = Offer(kinds=kinds_of(parse_gpus(prices), shape_of(model), StepSource(), degree_max=degree))
    best = confirmed_round(trace, offer, target, objective)
    if best is None:
        print(f"{trace.name[:24]:24}  {model:12}  no plan was confirmed")
        return math.nan, math.nan
    unseen = Replay(trace=trace, seeds=UNSEEN, policy=partial(make_policy, "joint"), objective=objective)
    kept = unseen(best.plan).both / best.plan.promise
    rivals: dict[str, float] = {}
    for gpu in {kind.gpu.name for kind in offer.kinds}:
        alone = confirmed_round(trace, offer.only(gpu), target, objective)
        rivals[gpu] = alone.plan.cost_per_h if alone and _serves_as_much(alone, best) else math.inf
    whole = confirmed_round(trace, replace(offer, phases=[Phase.MIXED]), target, objective)
    no_handoffs = whole.plan.cost_per_h if whole and _serves_as_much(whole, best) else math.inf
    single, cost = min(rivals.values()), best.plan.cost_per_h
    pools = " ".join(f"{pool.replicas}x{pool.kind.name}:{pool.phase.value[0]}" for pool in best.plan.pools)
    print(
        f"{trace.name[:24]:24}  {model:12}  {ttft_s:g}/{tpot_s:g}  {prices:30}  {kept:7.1%}  {cost:7.2f}"
        f"  {cost / single - 1:+7.0%}  {cost / no_handoffs - 1:+7.0%}  {pools}",
        flush=True,
    )
    return kept, cost / min(single, no_handoffs)


def _serves_as_much(rival: Round, best: Round) -> bool:
    return rival.plan.unreachable_share <= best.plan.unreachable_share + 1e-9


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="of each trace (%(default)s)")
    arguments = parser.parse_args(argv)
    print("trace                     model         TTFT/TPOT  $/h and GPU  kept of promise  $/h  to one class, mixed")
    kept, ratios = [], []
    for prices in PRICES:
        for case in CASES:
            if not case[0].startswith("synthetic") and not DATA.is_dir():
                print(f"no data at {DATA}; set SLUICE_DATA")
                continue
            each, ratio = row(case, prices, arguments.requests)
            kept.append(each)
            ratios.append(ratio)
    print(
        f"kept of the promise: median {statistics.median(kept):.1%}, worst {min(kept):.1%}; "
        f"cost to the best rival: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
