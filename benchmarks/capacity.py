"""How well step times are predicted: the engine's own steps against a curve learned from earlier ones.

    python benchmarks/capacity.py                       a random Llama on one CPU thread, three seeds; CPU time
    python benchmarks/capacity.py --steps 1000 --svg docs/images/capacity.svg
    python benchmarks/capacity.py --device cuda         on a GPU, wall time
    python benchmarks/capacity.py --operators DIR       measured operators (LLMServingSim, Llama-3.1-8B)
    python benchmarks/capacity.py --from samples.json   from steps measured elsewhere (`sluice profile`)

Loads come in random order from `capacity/profile_grid.py`. Every step after the first third is predicted before
it is learned from. Beside it: the mean of recent steps (what a heartbeat's smoothed step time says), and one
curve fitted to the first third and never again.
"""

import argparse
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from xml.sax.saxutils import escape

import torch

from sluice.capacity import profile_file
from sluice.capacity.capacity_book import GUESS
from sluice.capacity.curve_fit import fit
from sluice.capacity.curve_tracker import Z90, CurveTracker
from sluice.capacity.importers import llmservingsim
from sluice.capacity.model_shape import shape_of
from sluice.cli.engine_drive import Sample, drive, trials_for
from sluice.clock import ManualClock
from sluice.engine import torch_runner
from sluice.engine.contract import EngineLimits
from sluice.engine.emulated_runner import EmulatedRunner
from sluice.engine.engine import PagedEngine
from sluice.engine.model_loader import geometry_for, load_model
from sluice.engine.pace import RealPace
from sluice.engine.random_models import save_random_model
from sluice.testing.simulation import toy_model

SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 4096,
}
SMOOTHING = 0.1
KV_TOKENS_MAX = 6000  # of a trial: bigger ones take long on a CPU
FONT = 'font-family="sans-serif" font-size="12"'
LABELS = {
    "learned": "learned online",
    "fixed": "fitted once to the first third",
    "smoothed": "mean of recent steps",
}
WIDTH, HEIGHT, MARGIN = 560, 460, 56


class CpuTime:
    """A clock of this thread's CPU time: right on a machine that others use too."""

    def now_s(self) -> float:
        return time.thread_time()


@dataclass
class Findings:
    """Relative errors of one seed's predictions, and what the plot shows."""

    learned: list[float] = field(default_factory=list)
    fixed: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    inside: int = 0
    points: list[tuple[float, float, bool]] = field(default_factory=list)  # measured, predicted, has prefill


def engine_on(device: str) -> PagedEngine:
    with tempfile.TemporaryDirectory() as folder:
        save_random_model(Path(folder), family="llama", **SHAPE)
        model = load_model(folder, device=device, dtype="float32" if device == "cpu" else "bfloat16")
    limits = EngineLimits(batch_sequences_max=32, step_tokens_max=512, sequence_tokens_max=2048)
    geometry = geometry_for(model.facts, blocks=800)
    clock = CpuTime() if device == "cpu" else None
    return torch_runner.build_engine(model, geometry=geometry, limits=limits, clock=clock)


def steps_of(engine: PagedEngine, *, seed: int) -> Iterator[Sample]:
    """Steps without end, of trials in random order."""
    rng = random.Random(seed)
    plan = [trial for trial in trials_for(engine) if trial.kv_tokens <= KV_TOKENS_MAX]
    while True:
        yield from drive(engine, rng.sample(plan, len(plan)), rng)


def emulated_on(operators: Path) -> PagedEngine:
    """An engine whose steps last what measured operators say; no time passes while it runs."""
    clock = ManualClock()
    model = llmservingsim.read_profile(operators, shape_of("Llama-3.1-8B"))
    pace = RealPace(model, now_s=clock.now_s, sleep=clock.advance)
    geometry = toy_model.geometry(blocks=4000, block_tokens=16)
    memory = memoryview(bytearray(geometry.region_bytes))
    runner = EmulatedRunner(toy_model.FACTS, geometry, memory, rule=toy_model.RULE, pace=pace)
    limits = EngineLimits(batch_sequences_max=128, step_tokens_max=2048, sequence_tokens_max=4096)
    return PagedEngine(runner, geometry=geometry, limits=limits, clock=pace)


def judge(samples: Sequence[Sample]) -> Findings:
    """Predict each step after the first third from the steps before it."""
    findings = Findings()
    third = len(samples) // 3
    fixed = fit(samples[:third])
    tracker = CurveTracker(GUESS)
    smoothed_s = samples[0][1]
    for number, (shape, seconds) in enumerate(samples):
        predicted_s = tracker.curve().step_s(shape)
        if number >= third:
            findings.learned.append(abs(predicted_s / seconds - 1))
            findings.fixed.append(abs(fixed.step_s(shape) / seconds - 1))
            findings.smoothed.append(abs(smoothed_s / seconds - 1))
            findings.inside += abs(seconds - predicted_s) <= Z90 * tracker.error_of(shape) * predicted_s
            findings.points.append((seconds, predicted_s, shape.prefill_tokens > 0))
        tracker.note(shape, seconds)
        smoothed_s += SMOOTHING * (seconds - smoothed_s)
    return findings


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[round(share * (len(values) - 1))]


def show(runs: Sequence[Findings]) -> None:
    print(f"{'absolute error of a predicted step':38}{'half within':>14}{'nine of ten within':>22}")
    for name in LABELS:
        halves = [quantile(getattr(run, name), 0.5) for run in runs]
        most = [quantile(getattr(run, name), 0.9) for run in runs]
        spread = f"({min(most):.1%} to {max(most):.1%})"
        label = {"learned": "learned online", "fixed": "fitted once to the first third"}.get(
            name, "mean of recent steps"
        )
        print(f"{label:38}{statistics.median(halves):>14.1%}{statistics.median(most):>10.1%} {spread}")
    inside = [run.inside / len(run.learned) for run in runs]
    shares = ", ".join(f"{share:.1%}" for share in inside)
    print(f"steps inside the 90 % interval: {shares}; {len(runs[0].learned)} predicted steps a seed")


def svg(points: Sequence[tuple[float, float, bool]], caption: str) -> str:
    """Measured against predicted on logarithmic axes, the diagonal and 20 % either side."""
    values = [value for measured, predicted, _ in points for value in (measured, predicted) if value > 0]
    low, high = math.floor(math.log10(min(values)) * 2) / 2, math.ceil(math.log10(max(values)) * 2) / 2

    def x(seconds: float) -> float:
        return MARGIN + (math.log10(seconds) - low) / (high - low) * (WIDTH - MARGIN - 16)

    def y(seconds: float) -> float:
        return HEIGHT - MARGIN - (math.log10(seconds) - low) / (high - low) * (HEIGHT - MARGIN - 32)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{MARGIN}" y="18" fill="#333">{escape(caption)}</text>',
    ]
    for exponent in range(math.ceil(low), math.floor(high) + 1):
        at = 10.0**exponent
        label = f"{at * 1e3:g} ms"
        lines.append(f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="32" y2="{HEIGHT - MARGIN}" stroke="#ddd"/>')
        lines.append(f'<line x1="{MARGIN}" x2="{WIDTH - 16}" y1="{y(at):.1f}" y2="{y(at):.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="{x(at):.1f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{label}</text>')
        lines.append(f'<text x="{MARGIN - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{label}</text>')
    first, last = 10**low, 10**high
    for factor, dash in ((1.0, ""), (1.2, ' stroke-dasharray="4"'), (1 / 1.2, ' stroke-dasharray="4"')):
        start, end = max(first, first / factor), min(last, last / factor)
        ends = f'x1="{x(start):.1f}" y1="{y(start * factor):.1f}" x2="{x(end):.1f}" y2="{y(end * factor):.1f}"'
        lines.append(f'<line {ends} stroke="#888"{dash}/>')
    for measured, predicted, has_prefill in points:
        colour = "#c2410c" if has_prefill else "#1d4ed8"
        lines.append(f'<circle cx="{x(measured):.1f}" cy="{y(predicted):.1f}" r="2" fill="{colour}" opacity=".5"/>')
    lines += [
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">measured step</text>',
        f'<text text-anchor="middle" transform="translate(14 {HEIGHT / 2}) rotate(-90)">predicted step</text>',
        f'<circle cx="{MARGIN + 12}" cy="44" r="4" fill="#c2410c"/><text x="{MARGIN + 22}" y="48">with prefill</text>',
        f'<circle cx="{MARGIN + 12}" cy="62" r="4" fill="#1d4ed8"/><text x="{MARGIN + 22}" y="66">decodes only</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/capacity.py")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--from", dest="stored", type=Path)
    parser.add_argument("--operators", type=Path)
    parser.add_argument("--svg", type=Path)
    arguments = parser.parse_args()
    if arguments.stored:
        runs = [judge(profile_file.read(arguments.stored).samples)]
        what = f"steps of {arguments.stored.name}"
    else:
        torch.set_num_threads(1)
        engine = emulated_on(arguments.operators) if arguments.operators else engine_on(arguments.device)
        list(islice(steps_of(engine, seed=99), 60))  # the first calls of every shape are slow
        for sequence in [live.sequence for live in engine.scheduler.sequences]:
            engine.abort(sequence)
        runs = []
        for seed in range(arguments.seeds):
            steps = steps_of(engine, seed=seed)
            runs.append(judge(list(islice(steps, arguments.steps))))
            for sequence in [live.sequence for live in engine.scheduler.sequences]:
                engine.abort(sequence)
        where = "one CPU thread" if arguments.device == "cpu" else "one GPU"
        what = "operators measured on a GPU" if arguments.operators else f"Llama, 256 channels, 4 layers, {where}"
    show(runs)
    if arguments.svg:
        arguments.svg.write_text(svg(runs[0].points, f"{what}: each step predicted before it is learned from"))
        print(f"plot: {arguments.svg}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
