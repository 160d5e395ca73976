"""Splitwise's measured runs (MIT; `perf_model.csv`) as step models.

Milliseconds of a prompt by (prompt size, batch) and of a token by (batch, tokens generated), medians of
five runs. As in Splitwise's own simulator (ISCA 2024) a prompt's time follows the tokens of its batch
and a token's time the sequences of its batch. Rows of `h100-80gb-pcap` were modelled, not measured, and
are refused. Next: `../step_model.py`.
"""

import itertools
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from sluice.capacity.importers.rows import read_rows
from sluice.capacity.step_model import StepShape
from sluice.errors import ConfigError

MILLISECOND: Final = 1e-3
MODELLED: Final = "pcap"
PROMPT_TOKENS: Final = 512  # the prompt of the runs in which batch and output were varied
FIRST_OUTPUTS: Final = 128

Line = tuple[tuple[float, float], ...]  # (x, seconds), ascending


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseLines:
    """Step times from two measured lines. Satisfies StepModel.

    Decodes in a step with a prompt ride along: they count as so many more of its tokens, plus their
    reading of KV. The lines continue beyond their ends.
    """

    prompt_s: Line  # by tokens in the step
    decode_s: Line  # by sequences, each at `decode_context` tokens of context
    decode_context: float
    context_token_s: float

    def step_s(self, shape: StepShape) -> float:
        """See StepModel."""
        if not shape.prefill_tokens and not shape.decodes:
            return 0.0
        reading_s = self.context_token_s * (shape.context_tokens - self.decode_context * shape.decodes)
        if not shape.prefill_tokens:
            return max(self.decode_s[0][1] / 2, along(self.decode_s, shape.decodes) + reading_s)
        base_s = along(self.prompt_s, shape.prefill_tokens + shape.decodes)
        return base_s + max(0.0, self.context_token_s * shape.context_tokens)


def read_profile(path: Path, *, model: str, hardware: str, tensor_parallel: int) -> PhaseLines:
    """The lines of one (model, hardware, degree). Raises ConfigError listing what the file has."""
    if hardware.endswith(MODELLED):
        raise ConfigError(f"{path}: '{hardware}' was modelled from h100-80gb, not measured; use h100-80gb")
    prompt: dict[int, list[float]] = defaultdict(list)
    by_batch: dict[int, list[float]] = defaultdict(list)
    by_output: dict[int, list[float]] = defaultdict(list)
    known: set[tuple[str, str, str]] = set()
    for row in read_rows(path):
        key = (row.text("model"), row.text("hardware"), row.text("tensor_parallel"))
        known.add(key)
        if key != (model, hardware, str(tensor_parallel)):
            continue
        size, batch, outputs = row.integer("prompt_size"), row.integer("batch_size"), row.integer("token_size")
        if outputs == FIRST_OUTPUTS:
            prompt[size * batch].append(row.number("prompt_time") * MILLISECOND)
        if size == PROMPT_TOKENS and outputs == FIRST_OUTPUTS:
            by_batch[batch].append(row.number("token_time") * MILLISECOND)
        if size == PROMPT_TOKENS and batch == 1:
            by_output[outputs].append(row.number("token_time") * MILLISECOND)
    if len(prompt) < 2 or len(by_batch) < 2 or len(by_output) < 2:
        have = "; ".join(" ".join(key) for key in sorted(known) if not key[1].endswith(MODELLED))
        raise ConfigError(f"{path}: has no runs of {model} {hardware} at {tensor_parallel}; it has {have}")
    # Over n outputs the mean context is the prompt and half of them, so the slope is over half the difference.
    shortest, longest = min(by_output), max(by_output)
    rise_s = median(by_output[longest]) - median(by_output[shortest])
    return PhaseLines(
        prompt_s=_line(prompt),
        decode_s=_line(by_batch),
        decode_context=PROMPT_TOKENS + FIRST_OUTPUTS / 2,
        context_token_s=max(0.0, rise_s / ((longest - shortest) / 2)),
    )


def along(line: Line, x: float) -> float:
    """Linear between the points, and beyond them with the slope of the end; never below half the first value."""
    for (low, low_s), (high, high_s) in itertools.pairwise(line):
        if x <= high or high == line[-1][0]:
            return max(line[0][1] / 2, low_s + (high_s - low_s) * (x - low) / (high - low))
    return line[0][1]


def _line(points: dict[int, list[float]]) -> Line:
    return tuple((float(x), median(points[x])) for x in sorted(points))
