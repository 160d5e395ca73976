"""Everything worth knowing on a machine with one GPU, in one call of under ten minutes.

    python benchmarks/gpu.py [--shapes 1b 8b] [--skip-tests]

1. Runs tests/gpu (tokens of the CPU and the GPU, fences, memory).
2. Times prefill and decode of our engine on random bfloat16 models of the shapes of Llama 3.2 1B
   and Llama 3.1 8B, beside transformers' generate() on the same weights. Medians of several rounds.
3. Says how a decode step grows with the batch: the numbers a capability curve starts from.
"""

import argparse
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from engine_batches import Prompts, Runner, runner_of
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sluice.engine import torch_runner
from sluice.engine.contract import EngineLimits
from sluice.engine.model_loader import adopt_module, geometry_for

SHAPES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
HEAD_DIM = {"1b": 64, "8b": 128}
VOCABULARY = 128_256
PROMPT_TOKENS = 1024
OUTPUT_TOKENS = 65
BATCHES = (1, 8, 32)
ROUNDS = 3
SECONDS_MAX = 540


def random_module(shape: str) -> PreTrainedModel:
    """A model of random weights, made on the GPU."""
    config = AutoConfig.for_model(
        "llama",
        vocab_size=VOCABULARY,
        num_key_value_heads=8,
        head_dim=HEAD_DIM[shape],
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
        **SHAPES[shape],
    )
    torch.manual_seed(0)
    with torch.device("cuda:0"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()


def our_runner(module: PreTrainedModel) -> Runner:
    model = adopt_module(module, name="random")
    blocks = max(BATCHES) * 2 * (PROMPT_TOKENS + OUTPUT_TOKENS) // 16
    limits = EngineLimits(batch_sequences_max=max(BATCHES), step_tokens_max=2048, sequence_tokens_max=2048)
    return runner_of(torch_runner.build_engine(model, geometry=geometry_for(model.facts, blocks=blocks), limits=limits))


def generate_runner(module: PreTrainedModel) -> Runner:
    def run(prompts: Prompts, tokens: int) -> None:
        ids = torch.tensor(prompts, device="cuda:0")
        mask = torch.ones_like(ids)
        module.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=None)

    return run


def seconds_of(run: Runner, prompts: Prompts, tokens: int) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    run(prompts, tokens)
    torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(run: Runner, batch: int, rng: random.Random) -> tuple[float, float]:
    """Median seconds of a prefill and milliseconds of a decode step."""
    prefills, steps = [], []
    for round_index in range(ROUNDS + 1):
        short, long = (
            [[rng.randrange(3, VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(batch)] for _ in "ab"
        )
        prefill = seconds_of(run, short, 1)
        whole = seconds_of(run, long, OUTPUT_TOKENS)
        if round_index:  # the first round warms up
            prefills.append(prefill)
            steps.append((whole - prefill) / (OUTPUT_TOKENS - 1) * 1e3)
    return statistics.median(prefills), statistics.median(steps)


def compare(shape: str, deadline_s: float) -> None:
    module = random_module(shape)
    rng = random.Random(0)
    print(f"\nLlama {shape}, bfloat16, prompts of {PROMPT_TOKENS} tokens, {torch.cuda.get_device_name(0)}")
    print(f"{'engine':22} {'batch':>5} {'prefill ms':>11} {'tokens/s':>10} {'decode ms':>10} {'tokens/s':>9}  ratio")
    peers: dict[int, tuple[float, float]] = {}
    for name, make in (("transformers generate", generate_runner), ("sluice", our_runner)):
        run = make(module)
        for batch in BATCHES:
            if time.monotonic() > deadline_s:
                print("stopped: the time for one call is up")
                return
            prefill_s, step_ms = measure(run, batch, rng)
            ratio = ""
            if batch in peers:
                ratio = f"prefill {prefill_s / peers[batch][0]:.2f}, decode {step_ms / peers[batch][1]:.2f}"
            peers.setdefault(batch, (prefill_s, step_ms))
            rates = f"{batch * PROMPT_TOKENS / prefill_s:10.0f} {step_ms:10.2f} {batch / step_ms * 1e3:9.0f}"
            print(f"{name:22} {batch:5} {prefill_s * 1e3:11.1f} {rates}  {ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=["1b", "8b"])
    parser.add_argument("--skip-tests", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: this benchmark needs one; benchmarks/engine.py runs on a CPU")
    deadline_s = time.monotonic() + SECONDS_MAX
    if not arguments.skip_tests:
        root = Path(__file__).resolve().parent.parent
        subprocess.run([sys.executable, "-m", "pytest", "tests/gpu"], cwd=root, timeout=300, check=False)
    for shape in arguments.shapes:
        if time.monotonic() < deadline_s:
            compare(shape, deadline_s)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
