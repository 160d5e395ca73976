"""The simulator beside the platform itself: the same requests through both, in real time through one of them.

    SLUICE_DATA=../shared/data python benchmarks/simulator_vs_emulated.py [--slower 5] [--rate 5] [--duration 600]

The platform is `sluice up` with emulated GPUs: real router, real workers, real streams and handoffs, whose
engines take as long for a step as the same step model says. Requests are the Azure conversation trace's
first ones up to 4,096 tokens, sent as token ids over HTTP; times are those the client sees. Both place with
the same policy, for the same objectives.

A simulator knows GPUs, not the machine that HTTP, tokens and messages pass through. That time is measured before
the trace, on the idle platform with single requests of several lengths, as a constant and a term per prompt
token, and added to the simulated TTFT. `--slower S` emulates GPUs S times slower than the class, with the rate and
the objectives scaled along, so that what this machine does beside the steps weighs S times less. The line `machine`
says how busy it was. Aim: TTFT P50 and P90 within 5 %, attainment within 2 points.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import numpy as np

from sluice.capacity import profile_file
from sluice.capacity.catalogue import gpu_class
from sluice.capacity.curve_fit import fit_model
from sluice.capacity.model_shape import shape_of
from sluice.capacity.profile_file import Profile
from sluice.capacity.roofline import Roofline
from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape, chunk_pairs
from sluice.cli import up
from sluice.cli.fleet_options import plan_from
from sluice.cli.local_fleet import LocalFleet
from sluice.cli.objectives import parse_objective
from sluice.config.router import SloConfig
from sluice.domain.slo import SloClass
from sluice.policy.registry import POLICIES, make_policy
from sluice.simulator.fleet_run import FleetRun
from sluice.simulator.pool_spec import EngineSettings, make_specs, parse_pools
from sluice.simulator.run_options import Objective, RunOptions
from sluice.simulator.step_source import StepSource
from sluice.simulator.traces.source import read_trace
from sluice.simulator.workload import Workload

DATA = Path(os.environ.get("SLUICE_DATA", "../shared/data"))
SHAPE = "llama-3.1-8b"
TOKENS_MAX = 4096
TOKEN_FIRST, TOKEN_LAST = 300, 400  # of the demo vocabulary
HEARTBEAT_S = 1.0  # the router's default: how late it hears of a worker
PROBE_TOKENS = (64, 512, 1024, 2000)  # one step each
PROBE_ROUNDS = 7

Column = np.ndarray


@dataclass(frozen=True)
class Host:
    """What this machine adds to a TTFT."""

    constant_s: float
    token_s: float

    def of(self, prompt_tokens: Column) -> Column:
        return self.constant_s + self.token_s * prompt_tokens


def main() -> None:
    """Run both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", default="L40S:2m", help="workers of one class")
    parser.add_argument("--policy", default="joint", choices=sorted(POLICIES))
    parser.add_argument("--slower", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=5.0, help="requests/s at full speed")
    parser.add_argument("--duration", type=float, default=600.0, help="of the run, seconds")
    parser.add_argument("--slo", default="ttft=0.1,tpot=0.03,itl=0.5", help="at full speed")
    arguments = parser.parse_args()
    slower = arguments.slower
    trace = read_trace(str(DATA / "azure/AzureLLMInferenceTrace_conv.csv"), rate=None, seed=0)
    trace = trace.no_longer_than(TOKENS_MAX).at_rate(arguments.rate / slower).within(arguments.duration)
    objective = slowed(parse_objective(arguments.slo), slower)
    pools = arguments.pools
    name = pools.partition(":")[0]
    with tempfile.TemporaryDirectory() as folder:
        curve, profile = slow_curve(name, slower), Path(folder) / "slow.json"
        profile_file.write(profile, Profile(gpu_class=name, model=SHAPE, tensor_parallel=1, curve=curve))
        host, real_ttft_s, real_tpot_s = asyncio.run(
            on_platform(pools, profile, curve, trace, policy=arguments.policy, slo=objective.slo)
        )
        options = RunOptions(objective=objective, stale_s=HEARTBEAT_S, is_answer_asked=True)
        ttft_s, tpot_s = in_simulator(pools, f"{name}=measured:{profile}", trace, options, policy=arguments.policy)
    ttft_s = ttft_s + host.of(trace.prompt_tokens)
    print(f"{len(trace)} requests in {trace.duration_s:.0f} s on {pools}, {slower:g} times slower")
    print(
        f"machine: load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; adds {host.constant_s * 1e3:.1f} ms", end=""
    )
    print(f" and {host.token_s * 1e6:.2f} µs a prompt token to a TTFT\n")
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


def slowed(objective: Objective, slower: float) -> Objective:
    """The same objectives for slower GPUs."""
    slo = objective.slo
    return Objective(
        slo=replace(slo, ttft_s=slo.ttft_s * slower, tpot_s=slo.tpot_s * slower), itl_s=objective.itl_s * slower
    )


def slow_curve(name: str, slower: float) -> StepCurve:
    """A class's steps, so many times longer."""
    curve = fit_model(Roofline(gpu=gpu_class(name), shape=shape_of(SHAPE)))
    return replace(
        curve,
        base_s=curve.base_s * slower,
        prefill_token_s=curve.prefill_token_s * slower,
        pair_s=curve.pair_s * slower,
        decode_s=curve.decode_s * slower,
        context_token_s=curve.context_token_s * slower,
    )


def attained(ttft_s: Column, tpot_s: Column, slo: SloClass) -> float:
    """Share of requests with both in time; a request that failed has NaN and is a miss."""
    return float(((ttft_s <= slo.ttft_s) & (np.nan_to_num(tpot_s, nan=0.0) <= slo.tpot_s)).mean())


def in_simulator(
    pools: str, profile: str, trace: Workload, options: RunOptions, *, policy: str
) -> tuple[Column, Column]:
    """TTFT and TPOT per request."""
    specs = make_specs(
        parse_pools(pools), shape=shape_of(SHAPE), source=StepSource([profile]), settings=EngineSettings()
    )
    outcome = FleetRun(specs=specs, workload=trace, policy=make_policy(policy), options=options).run().outcome
    return outcome.ttft_s, outcome.tpot_s


async def on_platform(
    pools: str, profile: Path, curve: StepCurve, trace: Workload, *, policy: str, slo: SloClass
) -> tuple[Host, Column, Column]:
    """What the machine adds; then TTFT and TPOT per request, as the client sees them."""
    parser = argparse.ArgumentParser()
    up.add_arguments(parser)
    words = ["--policy", policy, "--gpu", pools, "--profile", f"{pools.partition(':')[0]}={profile}"]
    plan = plan_from(parser.parse_args(words), http_port=0, grpc_port=0)
    plan = replace(plan, slo=SloConfig(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s, miss_cost=slo.miss_cost))
    with LocalFleet(plan) as fleet:
        fleet.wait_ready(lambda _joined: None)
        client = Client(f"{fleet.url}/completions", plan.model_name)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            host = await measure_host(session, client, curve)
            start_s = time.monotonic() + 1.0
            tasks = [
                asyncio.create_task(at_its_moment(session, client, trace, index, start_s))
                for index in range(len(trace))
            ]
            answers = await asyncio.gather(*tasks)
    return host, np.array([ttft_s for ttft_s, _ in answers]), np.array([tpot_s for _, tpot_s in answers])


@dataclass(frozen=True)
class Client:
    """Where to ask for what."""

    url: str
    model: str

    async def ask(
        self, session: aiohttp.ClientSession, *, prompt_tokens: int, output_tokens: int, seed: int
    ) -> tuple[float, float]:
        """One request: TTFT and TPOT, NaN where it failed."""
        body = {
            "model": self.model,
            "prompt": prompt_of(prompt_tokens, seed),
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "stream": True,
        }
        sent_s = time.monotonic()
        stamps = await stream(session, self.url, body)
        if not stamps:
            return float("nan"), float("nan")
        tpot_s = (stamps[-1] - stamps[0]) / (output_tokens - 1) if output_tokens > 1 else float("nan")
        return stamps[0] - sent_s, tpot_s


async def measure_host(session: aiohttp.ClientSession, client: Client, curve: StepCurve) -> Host:
    """What a TTFT takes beyond the step, on an idle platform: the median per length, and a line through them."""
    over_s = []
    for tokens in PROBE_TOKENS:
        step_s = curve.step_s(StepShape(tokens, chunk_pairs(tokens, context_tokens=0), 1, 0, 0))
        seen = [
            await client.ask(session, prompt_tokens=tokens, output_tokens=1, seed=-1 - tokens - 10_000 * number)
            for number in range(PROBE_ROUNDS)
        ]
        over_s.append(float(np.median([ttft_s for ttft_s, _ in seen])) - step_s)
    token_s, constant_s = np.polyfit(PROBE_TOKENS, over_s, 1)
    return Host(float(constant_s), float(token_s))


async def at_its_moment(
    session: aiohttp.ClientSession, client: Client, trace: Workload, index: int, start_s: float
) -> tuple[float, float]:
    """One request of the trace."""
    due_s = start_s + float(trace.arrival_s[index] - trace.arrival_s[0])
    await asyncio.sleep(max(0.0, due_s - time.monotonic()))
    prompt, output = int(trace.prompt_tokens[index]), int(trace.output_tokens[index])
    return await client.ask(session, prompt_tokens=prompt, output_tokens=output, seed=index)


async def stream(session: aiohttp.ClientSession, url: str, body: dict[str, object]) -> Sequence[float]:
    """When each event with text came."""
    async with session.post(url, json=body) as response:
        if response.status != 200:
            return []
        return [time.monotonic() async for line in response.content if is_token(line)]


def is_token(line: bytes) -> bool:
    """Whether an event carries a token."""
    return line.startswith(b"data: {") and bool(json.loads(line[6:])["choices"])


def prompt_of(tokens: int, seed: int) -> list[int]:
    """Token ids that no other request begins with."""
    generator = np.random.default_rng(abs(seed) * 2 + (seed < 0))
    return [int(token) for token in generator.integers(TOKEN_FIRST, TOKEN_LAST, tokens)]


if __name__ == "__main__":
    main()
