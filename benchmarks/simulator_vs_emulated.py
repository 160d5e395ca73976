"""The simulator beside the platform itself: the same requests through both, in real time through one of them.

    SLUICE_DATA=../shared/data python benchmarks/simulator_vs_emulated.py [--pools L4:2m] [--rate 1.0] [--duration 600]

The platform is `sluice up` with emulated GPUs: real router, real workers, real streams and handoffs, whose
engines take as long for a step as the same step model says. Requests are the Azure conversation trace's
first ones up to 4,096 tokens, sent as token ids over HTTP; times are those the client sees. Both place with
the same policy. It needs a machine with idle cores: a step that starts late because the machine is busy
counts against the platform, and the line `machine` says how busy it was. Aim: TTFT P50 and P90 within 5 %,
attainment within 2 points.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import numpy as np

from sluice.capacity.model_shape import shape_of
from sluice.cli import up
from sluice.cli.fleet_options import plan_from
from sluice.cli.local_fleet import LocalFleet
from sluice.cli.objectives import parse_objective
from sluice.domain.slo import SloClass
from sluice.policy.registry import make_policy
from sluice.simulator.fleet_run import FleetRun
from sluice.simulator.pool_spec import EngineSettings, make_specs, parse_pools
from sluice.simulator.run_options import RunOptions
from sluice.simulator.step_source import StepSource
from sluice.simulator.traces.source import read_trace
from sluice.simulator.workload import Workload

DATA = Path(os.environ.get("SLUICE_DATA", "../shared/data"))
TOKENS_MAX = 4096
TOKEN_FIRST, TOKEN_LAST = 300, 400  # of the demo vocabulary
HEARTBEAT_S = 1.0  # the router's default: how late it hears of a worker

Column = np.ndarray


def main() -> None:
    """Run both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", default="L4:2m")
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--duration", type=float, default=600.0)
    parser.add_argument("--slo", default="ttft=1,tpot=0.15,itl=0.5")
    arguments = parser.parse_args()
    trace = read_trace(str(DATA / "azure/AzureLLMInferenceTrace_conv.csv"), rate=None, seed=0)
    trace = trace.no_longer_than(TOKENS_MAX).at_rate(arguments.rate).within(arguments.duration)
    objective = parse_objective(arguments.slo)
    real_ttft_s, real_tpot_s = asyncio.run(on_platform(arguments.pools, trace))
    ttft_s, tpot_s = in_simulator(arguments.pools, trace, RunOptions(objective=objective, stale_s=HEARTBEAT_S))
    print(f"{len(trace)} requests in {trace.duration_s:.0f} s on {arguments.pools}")
    print(f"machine: load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| | platform | simulator | difference |\n| --- | --: | --: | --: |")
    for name, real, simulated in (("TTFT", real_ttft_s, ttft_s), ("TPOT", real_tpot_s, tpot_s)):
        for share in (0.5, 0.9):
            ours, theirs = np.nanquantile(simulated, share), np.nanquantile(real, share)
            print(
                f"| {name} P{share * 100:.0f}, ms | {theirs * 1e3:.1f} | {ours * 1e3:.1f} | {ours / theirs - 1:+.1%} |"
            )
    slo = objective.slo
    real, simulated = attained(real_ttft_s, real_tpot_s, slo), attained(ttft_s, tpot_s, slo)
    print(f"| attainment | {real:.1%} | {simulated:.1%} | {(simulated - real) * 100:+.1f} points |")


def attained(ttft_s: Column, tpot_s: Column, slo: SloClass) -> float:
    """Share of requests with both in time; a request that failed has NaN and is a miss."""
    return float(((ttft_s <= slo.ttft_s) & (np.nan_to_num(tpot_s, nan=0.0) <= slo.tpot_s)).mean())


def in_simulator(pools: str, trace: Workload, options: RunOptions) -> tuple[Column, Column]:
    """TTFT and TPOT per request."""
    specs = make_specs(
        parse_pools(pools), shape=shape_of("llama-3.1-8b"), source=StepSource(), settings=EngineSettings()
    )
    outcome = FleetRun(specs=specs, workload=trace, policy=make_policy("joint"), options=options).run().outcome
    return outcome.ttft_s, outcome.tpot_s


async def on_platform(pools: str, trace: Workload) -> tuple[Column, Column]:
    """TTFT and TPOT per request, as the client sees them."""
    parser = argparse.ArgumentParser()
    up.add_arguments(parser)
    words = [word for pool in pools.split(",") for word in ("--gpu", pool.replace("+", ","))]
    plan = plan_from(parser.parse_args(words), http_port=0, grpc_port=0)
    with LocalFleet(plan) as fleet:
        fleet.wait_ready(lambda _joined: None)
        url = f"{fleet.url}/completions"
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            start_s = time.monotonic() + 1.0
            tasks = [
                asyncio.create_task(ask(session, url, plan.model_name, trace, index, start_s))
                for index in range(len(trace))
            ]
            answers = await asyncio.gather(*tasks)
    return np.array([ttft_s for ttft_s, _ in answers]), np.array([tpot_s for _, tpot_s in answers])


async def ask(  # noqa: PLR0917 - one caller
    session: aiohttp.ClientSession, url: str, model: str, trace: Workload, index: int, start_s: float
) -> tuple[float, float]:
    """One request at its moment: TTFT and TPOT, NaN where it failed."""
    due_s = start_s + float(trace.arrival_s[index] - trace.arrival_s[0])
    await asyncio.sleep(max(0.0, due_s - time.monotonic()))
    body = {
        "model": model,
        "prompt": prompt_of(int(trace.prompt_tokens[index]), index),
        "max_tokens": int(trace.output_tokens[index]),
        "ignore_eos": True,
        "stream": True,
    }
    sent_s = time.monotonic()
    stamps = await stream(session, url, body)
    if not stamps:
        return float("nan"), float("nan")
    tokens = int(trace.output_tokens[index])
    tpot_s = (stamps[-1] - stamps[0]) / (tokens - 1) if tokens > 1 else float("nan")
    return stamps[0] - sent_s, tpot_s


async def stream(session: aiohttp.ClientSession, url: str, body: dict[str, object]) -> Sequence[float]:
    """When each event with text came."""
    async with session.post(url, json=body) as response:
        if response.status != 200:
            return []
        return [time.monotonic() async for line in response.content if is_token(line)]


def is_token(line: bytes) -> bool:
    """Whether an event carries a token."""
    return line.startswith(b"data: {") and bool(json.loads(line[6:])["choices"])


def prompt_of(tokens: int, index: int) -> list[int]:
    """Token ids that no other request begins with."""
    generator = np.random.default_rng(index)
    return [int(token) for token in generator.integers(TOKEN_FIRST, TOKEN_LAST, tokens)]


if __name__ == "__main__":
    main()
