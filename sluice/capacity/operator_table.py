"""A step model from measured operators: attention looked up in a table of four axes, the rest by token count.

A step is one pass of a decoder: dense operators over its tokens, attention over chunks and contexts,
the output head over its sequences. Each was measured alone; their sum is the step (LLMServingSim,
IISWC 2024, arXiv 2408.05499, and Vidur, MLSys 2024). Interpolation is linear on every axis, because attention is
linear in each. Fast enough for a simulator: a few microseconds. Next: `importers/llmservingsim.py`.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sluice.capacity.step_model import StepShape

Grid = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AttentionSample:
    """One measured attention call of one layer."""

    prefill_tokens: int
    prefill_context: int
    decodes: int
    decode_context: int  # of each decode
    seconds: float


class AttentionTable:
    """Seconds of one layer's attention by (chunk tokens, its context, decodes, context of each)."""

    def __init__(self, samples: Sequence[AttentionSample]) -> None:
        """Fill holes in `samples`, which need not be a full grid, by linear continuation along the axes."""
        self._chunks = _axis(sample.prefill_tokens for sample in samples)
        self._pasts = _axis(sample.prefill_context for sample in samples)
        self._counts = _axis(sample.decodes for sample in samples)
        self._contexts = _axis(sample.decode_context for sample in samples)
        grid = np.full((len(self._chunks), len(self._pasts), len(self._counts), len(self._contexts)), np.nan)
        for sample in samples:
            at = (
                self._chunks.index(sample.prefill_tokens),
                self._pasts.index(sample.prefill_context),
                self._counts.index(sample.decodes),
                self._contexts.index(sample.decode_context),
            )
            grid[at] = sample.seconds
        self._spread_idle_axes(grid)
        for axis, values in ((3, self._contexts), (1, self._pasts), (2, self._counts), (0, self._chunks)):
            _continue_along(grid, np.array(values, dtype=np.float64), axis)
        self.floor_s = float(np.nanmin(grid[grid > 0.0]))
        self._flat: list[float] = np.nan_to_num(grid).reshape(-1).tolist()
        self._strides = tuple(stride // grid.itemsize for stride in grid.strides)

    def seconds(self, chunk: float, past: float, decodes: float, context: float) -> float:
        """One layer's attention over a chunk of `chunk` tokens after `past` and `decodes` decodes of `context` each."""
        total = 0.0
        flat = self._flat
        by_chunk, by_past, by_count, by_context = self._strides
        contexts = _bracket(self._contexts, context) if decodes else _AT_FIRST
        pasts = _bracket(self._pasts, past) if chunk else _AT_FIRST
        for i, i_share in _bracket(self._chunks, chunk):
            for k, k_share in _bracket(self._counts, decodes):
                row = i * by_chunk + k * by_count
                ik_share = i_share * k_share
                for j, j_share in pasts:
                    for m, m_share in contexts:
                        total += ik_share * j_share * m_share * flat[row + j * by_past + m * by_context]
        return max(0.0, total)

    def _spread_idle_axes(self, grid: Grid) -> None:
        """Without a chunk its context says nothing, nor does a context without decodes: the same for all."""
        if self._chunks[0] == 0:
            grid[0] = grid[0, :1]
            grid[0, :, 0, :] = 0.0
        if self._counts[0] == 0:
            grid[:, :, 0, :] = grid[:, :, 0, :1]


@dataclass(frozen=True, slots=True)
class AllReduce:
    """What joining tensor-parallel partial sums costs, ring over `ranks`: twice per layer."""

    ranks: int
    latency_s: float
    bytes_per_s: float

    def seconds(self, size_bytes: float) -> float:
        """One all-reduce of `size_bytes` on every rank."""
        if self.ranks == 1:
            return 0.0
        steps = 2 * (self.ranks - 1)
        return steps * self.latency_s + steps / self.ranks * size_bytes / self.bytes_per_s


class OperatorTable:
    """Step times of one replica from its operators. Satisfies StepModel."""

    def __init__(
        self,
        *,
        attention: AttentionTable,
        layers: int,
        token_s: Sequence[float],
        sequence_s: Sequence[float],
        step_s: float = 0.0,
    ) -> None:
        """`token_s[n]` is all dense operators of all layers for n tokens, `sequence_s[n]` the head for n sequences.

        Both start at 0 and continue linearly beyond their ends. `step_s` is added to every step: what
        the host takes between two passes.
        """
        self._attention = attention
        self._layers = layers
        self._token_s = list(token_s)
        self._sequence_s = list(sequence_s)
        self._step_s = step_s

    def step_s(self, shape: StepShape) -> float:
        """See StepModel. Several chunks count as that many of their mean length: a kernel's start is paid once."""
        tokens, pairs, chunks, decodes, context = shape
        if not tokens and not decodes:
            return 0.0
        attention = self._attention
        mean_context = context / decodes if decodes else 0.0
        if tokens:
            chunks = max(chunks, 1)
            mean_chunk = tokens / chunks
            past = max(0.0, pairs / tokens - (mean_chunk + 1) / 2)
            layer_s = attention.seconds(mean_chunk, past, decodes, mean_context)
            if chunks > 1:
                more = attention.seconds(mean_chunk, past, 0, 0.0) - attention.floor_s
                layer_s += (chunks - 1) * max(0.0, more)
        else:
            layer_s = attention.seconds(0.0, 0.0, decodes, mean_context)
        return (
            self._step_s
            + self._layers * layer_s
            + _at(self._token_s, tokens + decodes)
            + _at(self._sequence_s, chunks + decodes)
        )


def spread(xs: Sequence[int], seconds: Sequence[float]) -> list[float]:
    """Values at 0, 1, 2 ... up to the last of `xs`, linear between them; at 0 nothing is done."""
    wanted = np.arange(xs[-1] + 1, dtype=np.float64)
    values = np.interp(wanted, np.array(xs, dtype=np.float64), np.array(seconds))
    values[0] = 0.0
    return [float(value) for value in values]


def _at(values: list[float], index: int) -> float:
    last = len(values) - 1
    if index <= last:
        return values[index]
    slope = (values[last] - values[last // 2]) / (last - last // 2)
    return values[last] + slope * (index - last)


_AT_FIRST: Final = ((0, 1.0),)


def _bracket(axis: list[int], value: float) -> tuple[tuple[int, float], ...]:
    """The points of `axis` around `value` with their shares; beyond its end the last two, continued."""
    above = bisect_right(axis, value)
    if above == 0:
        return _AT_FIRST
    low = above - 1
    if axis[low] == value or len(axis) == 1:
        return ((low, 1.0),)
    if above == len(axis):
        low, above = above - 2, above - 1
    share = (value - axis[low]) / (axis[above] - axis[low])
    return ((low, 1.0 - share), (above, share))


def _axis(values: Iterable[int]) -> list[int]:
    return sorted(set(values))


def _continue_along(grid: Grid, xs: Grid, axis: int) -> None:
    """Fill NaN of `grid` in place, line by line along `axis`: linear between and beyond what is known."""
    lines = np.moveaxis(grid, axis, -1)
    for index in np.ndindex(lines.shape[:-1]):
        line = lines[index]
        known = ~np.isnan(line)
        if known.all() or known.sum() < 2:
            continue
        filled = np.interp(xs, xs[known], line[known])
        last = int(np.flatnonzero(known)[-1])
        before = int(np.flatnonzero(known)[-2])
        slope = max(0.0, (line[last] - line[before]) / (xs[last] - xs[before]))
        filled[last + 1 :] = np.maximum(line[last] + slope * (xs[last + 1 :] - xs[last]), line[last])
        line[~known] = filled[~known]
