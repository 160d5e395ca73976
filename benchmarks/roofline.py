"""The roofline prior beside measured profiles: seconds predicted over seconds measured, per kind of step.

Reads the profiles of LLMServingSim (vLLM 0.19) and Splitwise (2023) below SLUICE_DATA (default ../shared/data).

    SLUICE_DATA=../shared/data python benchmarks/roofline.py
"""

import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from sluice.capacity import catalogue
from sluice.capacity.curve_fit import fit_model, usual_steps
from sluice.capacity.importers import llmservingsim, splitwise
from sluice.capacity.model_shape import shape_of
from sluice.capacity.roofline import Roofline
from sluice.capacity.step_model import StepModel, StepShape, chunk_pairs

DATA = Path(os.environ.get("SLUICE_DATA", "../shared/data"))
PROMPTS = (128, 512, 2048, 8192)
BATCHES = ((1, 512), (16, 512), (64, 512), (64, 2048), (128, 1000))  # sequences, context of each


def profiles() -> Iterator[tuple[str, StepModel, Roofline]]:
    """Name, measured model, roofline of the same."""
    for folder, gpu, model, path in (
        ("RTXPRO6000", "RTX-PRO-6000", "Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("RTX4090", "RTX-4090", "Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("RTXPRO6000", "RTX-PRO-6000", "Qwen3-32B", "Qwen/Qwen3-32B"),
    ):
        shape = shape_of(model)
        measured = llmservingsim.read_profile(DATA / "llmservingsim/perf" / folder / path / "bf16/tp1", shape)
        yield f"{gpu} {model}", measured, Roofline(gpu=catalogue.gpu_class(gpu), shape=shape)
    shape = shape_of("Llama-2-70B")
    for hardware, gpu in (("a100-80gb", "A100-80G"), ("h100-80gb", "H100")):
        for degree in (4, 8):
            table = DATA / "splitwise-sim/perf_model.csv"
            measured_2023 = splitwise.read_profile(table, model="llama2-70b", hardware=hardware, tensor_parallel=degree)
            prior = Roofline(gpu=catalogue.gpu_class(gpu), shape=shape, tensor_parallel=degree)
            yield f"{gpu}x{degree} Llama-2-70B, 2023", measured_2023, prior


def main() -> int:
    if not DATA.is_dir():
        print(f"no profiles at {DATA}; set SLUICE_DATA")
        return 1
    heads = [*(f"prompt {tokens}" for tokens in PROMPTS), *(f"{count} x {context}" for count, context in BATCHES)]
    print(f"{'predicted / measured':32}" + "".join(f"{head:>12}" for head in heads) + "   linear fit's error")
    for name, measured, prior in profiles():
        steps = [
            *(StepShape(tokens, chunk_pairs(tokens, context_tokens=0), 1) for tokens in PROMPTS),
            *(StepShape(decodes=count, context_tokens=count * context) for count, context in BATCHES),
        ]
        ratios = [prior.step_s(step) / measured.step_s(step) for step in steps]
        curve = fit_model(measured, usual_steps(step_tokens_max=2048, batch_sequences_max=128))
        cells = "".join(f"{ratio:12.2f}" for ratio in ratios)
        print(f"{name:32}{cells}   median {statistics.median(ratios):.2f}; {curve.error:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
