"""The simulator beside logged runs of vLLM 0.19: TTFT and TPOT, from profiles of the same machine alone.

    SLUICE_DATA=../shared/data python benchmarks/simulator_fidelity.py

Both runs are LLMServingSim's (MIT): 300 ShareGPT requests at 10/s, far over what one replica can do, so
that errors of a step add up. What the simulator is told: the operator times measured on that GPU, the
run's own settings (token budget 2048, 128 sequences), the link of its configuration (16 GB/s; its 20 us
for one all-reduce of two ranks), that vLLM plans one step ahead, and the host's time per step, which no
operator profile has. That one number is taken from the decode-only end of the first run (767 steps, after
its last prompt) and used for both, so the second run is a test of it. The table has the errors without it
too, and those that LLMServingSim's own simulator reports for the same runs.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sluice.capacity.catalogue import gpu_class
from sluice.capacity.curve_fit import fit_model
from sluice.capacity.importers import llmservingsim
from sluice.capacity.model_shape import shape_of
from sluice.capacity.operator_table import AllReduce, OperatorTable
from sluice.capacity.roofline import kv_tokens
from sluice.capacity.step_model import StepShape
from sluice.domain.role import Role
from sluice.policy.round_robin import RoundRobin
from sluice.simulator.fleet_run import FleetRun
from sluice.simulator.instance_spec import InstanceSpec, StepOrder
from sluice.simulator.run_options import RunOptions
from sluice.simulator.workload import Workload

DATA = Path(os.environ.get("SLUICE_DATA", "../shared/data")) / "llmservingsim"
BLOCK_TOKENS = 16
JUMP_STEPS_MAX = 32  # operator tables are bumpy: longer jumps would smooth them


@dataclass(frozen=True)
class Logged:
    """One logged run."""

    folder: str
    profile: str
    shape: str
    tensor_parallel: int
    all_reduce: AllReduce


RUNS = (
    Logged("Llama-3.1-8B", "meta-llama/Llama-3.1-8B/bf16/tp1", "llama-3.1-8b", 1, llmservingsim.ONE_GPU),
    Logged("Qwen3-32B", "Qwen/Qwen3-32B/bf16/tp2", "qwen3-32b", 2, AllReduce(2, 1e-5, 16e9)),
)


def main() -> None:
    """Print the table."""
    host_step_s = host_step(RUNS[0])
    print(f"host time per step, from the end of the {RUNS[0].folder} run: {host_step_s * 1e3:.2f} ms\n")
    print("| run | figure | vLLM ms | simulated ms | error | without host time | LLMServingSim's own |")
    print("| --- | --- | --: | --: | --: | --: | --: |")
    for logged in RUNS:
        measured = read_log(logged)
        ours, bare = simulate(logged, host_step_s), simulate(logged, 0.0)
        theirs = reported(logged)
        for name, value in measured.items():
            error, without = ours[name] / value - 1, bare[name] / value - 1
            print(
                f"| {logged.folder} | {name} | {value * 1e3:.1f} | {ours[name] * 1e3:.1f} "
                f"| {error:+.1%} | {without:+.1%} | {theirs.get(name, '')} |"
            )


def host_step(logged: Logged) -> float:
    """Seconds per step beyond the operators', from the steps after the last prompt: their number is that request's."""
    rows = requests_of(logged)
    model = profile_of(logged, 0.0)
    first_s = np.array([row["first_token_ts"] for row in rows])
    last_s = np.array([row["last_token_ts"] for row in rows])
    final_tokens = np.array([row["input_toks"] + row["output_toks"] for row in rows])
    newest = int(first_s.argmax())
    steps = int(rows[newest]["output_toks"]) - 1
    mean_s = (last_s[newest] - first_s[newest]) / steps
    low, high = 0.0, mean_s
    while high - low > 1e-7:
        middle = (low + high) / 2
        now_s, done = first_s[newest], 0
        while now_s < last_s[newest] and done <= steps:
            left_s = last_s - now_s
            context = (final_tokens - left_s / mean_s)[left_s > 0.0]  # each ends at its known length
            now_s += middle + model.step_s(StepShape(decodes=len(context), context_tokens=int(context.sum())))
            done += 1
        low, high = (middle, high) if done > steps else (low, middle)
    return low


def read_log(logged: Logged) -> dict[str, float]:
    """What was measured. Times since arrival; the two clocks of the log are joined at the first request."""
    rows = requests_of(logged)
    offset_s = rows[0]["queued_ts"] - rows[0]["arrival_time"]
    ttft_s = np.array([row["first_token_ts"] - offset_s - row["arrival_time"] for row in rows])
    decode_s = np.array([row["last_token_ts"] - row["first_token_ts"] for row in rows])
    return figures(ttft_s, decode_s / np.array([row["output_toks"] - 1 for row in rows]))


def simulate(logged: Logged, host_step_s: float) -> dict[str, float]:
    """The same requests on one simulated replica."""
    rows = requests_of(logged)
    shape, gpu = shape_of(logged.shape), gpu_class("RTX-PRO-6000")
    model = profile_of(logged, host_step_s)
    spec = InstanceSpec(
        name="RTX-PRO-6000 mixed",
        gpu_class=gpu.name,
        role=Role.MIXED,
        model=model,
        curve=fit_model(model),
        blocks=kv_tokens(gpu, shape, tensor_parallel=logged.tensor_parallel) // BLOCK_TOKENS,
        step_tokens_max=2048,
        step_order=StepOrder.CHUNKED,
        batch_sequences_max=128,
        is_ahead=True,
        jump_steps_max=JUMP_STEPS_MAX,
    )
    workload = Workload(
        name=logged.folder,
        arrival_s=np.array([row["arrival_time"] - rows[0]["arrival_time"] for row in rows]),
        prompt_tokens=np.array([row["input_toks"] for row in rows]),
        output_tokens=np.array([row["output_toks"] for row in rows]),
    )
    options = RunOptions(tend_every_s=0.0, retry_every_s=0.001)
    outcome = FleetRun(specs=[spec], workload=workload, policy=RoundRobin(), options=options).run().outcome
    assert outcome.is_finished.all()
    return figures(outcome.ttft_s, outcome.tpot_s)


def profile_of(logged: Logged, host_step_s: float) -> OperatorTable:
    """Step times from the measured operators."""
    return llmservingsim.read_profile(
        DATA / "perf" / "RTXPRO6000" / logged.profile,
        shape_of(logged.shape),
        all_reduce=logged.all_reduce,
        step_overhead_s=host_step_s,
    )


def figures(ttft_s: np.ndarray, tpot_s: np.ndarray) -> dict[str, float]:
    """The compared quantiles, in seconds."""
    return {
        f"{name} {word}": float(value)
        for name, values in (("TTFT", ttft_s), ("TPOT", tpot_s))
        for word, value in (
            ("Mean", np.mean(values)),
            ("Median", np.median(values)),
            ("P90", np.quantile(values, 0.9)),
            ("P99", np.quantile(values, 0.99)),
        )
    }


def requests_of(logged: Logged) -> list[dict[str, float]]:
    """The log's rows."""
    path = DATA / "bench" / "examples" / "RTXPRO6000" / logged.folder / "vllm" / "requests.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def reported(logged: Logged) -> dict[str, str]:
    """Errors of LLMServingSim's simulator, as it prints them."""
    path = DATA / "bench" / "examples" / "RTXPRO6000" / logged.folder / "validation" / "summary.txt"
    rows = [line.split() for line in path.read_text().splitlines() if line.endswith("%")]
    return {f"{row[0]} {row[1]}": row[-1] for row in rows}


if __name__ == "__main__":
    main()
