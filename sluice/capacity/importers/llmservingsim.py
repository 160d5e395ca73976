"""LLMServingSim's measured profiles (MIT; its `perf/<device>/<model>/<dtype>/tp<N>` folders) as operator tables.

`dense.csv` (layer, tokens), `per_sequence.csv` (layer, sequences), `attention.csv` (chunk, its context,
decodes, their mean context) and, for mixtures of experts, `moe.csv` (tokens, experts), in microseconds of
one layer on vLLM 0.19. How many times a step runs each is the model's shape. Next: `../operator_table.py`.
"""

from collections import defaultdict
from pathlib import Path
from typing import Final

from sluice.capacity.importers.rows import read_rows
from sluice.capacity.model_shape import ModelShape
from sluice.capacity.operator_table import AllReduce, AttentionSample, AttentionTable, OperatorTable, spread
from sluice.errors import ConfigError

MICROSECOND: Final = 1e-6

TIMES_PER_LAYER: Final = {
    "layernorm": 2,
    "qkv_proj": 1,
    "qk_norm": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
TIMES_PER_STEP: Final = {"embedding": 1, "final_layernorm": 1}
SEQUENCE_LAYERS: Final = ("lm_head", "sampler")
ALL_REDUCES_PER_LAYER: Final = 2  # after o_proj and after down_proj

ONE_GPU: Final = AllReduce(ranks=1, latency_s=0.0, bytes_per_s=1.0)


def read_profile(
    folder: Path, shape: ModelShape, *, all_reduce: AllReduce = ONE_GPU, step_overhead_s: float = 0.0
) -> OperatorTable:
    """The step model of one `tp<N>` folder. Raises ConfigError naming the file, line and column that is wrong.

    `all_reduce` joins the ranks, which the profile leaves out; `step_overhead_s` is the host's time per step.
    """
    token_s = _dense_s(folder, shape)
    reduced_bytes = shape.hidden * shape.dtype_bytes
    for tokens in range(1, len(token_s)):
        token_s[tokens] += shape.layers * ALL_REDUCES_PER_LAYER * all_reduce.seconds(tokens * reduced_bytes)
    return OperatorTable(
        attention=AttentionTable(_attention(folder)),
        layers=shape.layers,
        token_s=token_s,
        sequence_s=_sequence_s(folder),
        step_s=step_overhead_s,
    )


def _attention(folder: Path) -> list[AttentionSample]:
    return [
        AttentionSample(
            row.integer("prefill_chunk"),
            row.integer("kv_prefill"),
            row.integer("n_decode"),
            row.integer("kv_decode"),
            row.number("time_us") * MICROSECOND,
        )
        for row in read_rows(folder / "attention.csv")
    ]


def _dense_s(folder: Path, shape: ModelShape) -> list[float]:
    """Seconds of all dense operators of a step, by tokens from 0."""
    path = folder / "dense.csv"
    by_layer: dict[str, dict[int, float]] = defaultdict(dict)
    for row in read_rows(path):
        by_layer[row.text("layer")][row.integer("tokens")] = row.number("time_us") * MICROSECOND
    unknown = by_layer.keys() - TIMES_PER_LAYER.keys() - TIMES_PER_STEP.keys()
    if unknown:
        raise ConfigError(f"{path}: has operators that are not known: {', '.join(sorted(unknown))}")
    end = 1 + min(max(points) for points in by_layer.values())
    total = [0.0] * end
    for name, points in by_layer.items():
        times = TIMES_PER_STEP.get(name, 0) or TIMES_PER_LAYER[name] * shape.layers
        for tokens, seconds in enumerate(_line(points)[:end]):
            total[tokens] += times * seconds
    if shape.experts > 1:
        for tokens, seconds in enumerate(_experts_s(folder, shape, end)):
            total[tokens] += shape.layers * seconds
    return total


def _experts_s(folder: Path, shape: ModelShape, end: int) -> list[float]:
    """One layer's experts by tokens: routing is taken as uniform, so that the experts touched follow from it."""
    by_experts: dict[int, dict[int, float]] = defaultdict(dict)
    for row in read_rows(folder / "moe.csv"):
        by_experts[row.integer("activated_experts")][row.integer("tokens")] = row.number("time_us") * MICROSECOND
    counts = sorted(by_experts)
    lines = {count: _line(by_experts[count]) for count in counts}
    seconds = [0.0]
    for tokens in range(1, end):
        touched = shape.experts * (1.0 - (1.0 - shape.experts_per_token / shape.experts) ** tokens)
        below = max((count for count in counts if count <= touched), default=counts[0])
        above = min((count for count in counts if count >= touched), default=counts[-1])
        share = (touched - below) / (above - below) if above > below else 0.0
        seconds.append((1 - share) * _at(lines[below], tokens) + share * _at(lines[above], tokens))
    return seconds


def _sequence_s(folder: Path) -> list[float]:
    by_layer: dict[str, dict[int, float]] = defaultdict(dict)
    path = folder / "per_sequence.csv"
    for row in read_rows(path):
        by_layer[row.text("layer")][row.integer("sequences")] = row.number("time_us") * MICROSECOND
    missing = set(SEQUENCE_LAYERS) - by_layer.keys()
    if missing:
        raise ConfigError(f"{path}: lacks {', '.join(sorted(missing))}")
    lines = [_line(by_layer[name]) for name in SEQUENCE_LAYERS]
    return [sum(seconds) for seconds in zip(*lines, strict=False)]


def _line(points: dict[int, float]) -> list[float]:
    xs = sorted(points)
    return spread(xs, [points[x] for x in xs])


def _at(line: list[float], index: int) -> float:
    """Linear beyond the end, through the origin side's half: big batches are proportional to their tokens."""
    return line[index] if index < len(line) else line[-1] * index / (len(line) - 1)
