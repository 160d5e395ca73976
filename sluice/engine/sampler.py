"""Chooses the next token of every sampled sequence of a step, all rows at once.

A row's token depends on its own logits, settings and (seed, output index) only, never on the
rest of the batch: numbers come from `counter_random.py`, and the inverse of the cumulative
distribution is taken in the order of token ids. Steps, per row:

    logits -> repetition, presence, frequency penalties -> logit bias -> tokens barred by min_tokens
           -> log-probabilities are read here -> temperature -> top-k -> top-p -> min-p -> draw

Reported log-probabilities are of the distribution before temperature and truncation, so that they
do not change with how one samples from it. Never decides when a sequence ends: `stopping.py`.
"""

from collections.abc import Sequence

import numpy as np
import torch

from sluice.domain.sampling import SamplingParams
from sluice.engine.contract import Logprobs
from sluice.engine.counter_random import uniforms
from sluice.engine.logit_edits import edit_logits, needs_edits
from sluice.engine.runner import Choice
from sluice.engine.sequence import LiveSequence
from sluice.engine.truncation import truncate


def choose(logits: torch.Tensor, sequences: Sequence[LiveSequence], *, eos_token_ids: tuple[int, ...]) -> list[Choice]:
    """One choice per row of `logits` [sequences, vocabulary], in order. May overwrite `logits`."""
    settings = [sequence.sampling for sequence in sequences]
    logits = logits.float()
    valid = torch.isfinite(logits.amax(dim=-1))
    if any(needs_edits(sequence) for sequence in sequences):
        logits = edit_logits(logits, sequences, eos_token_ids=eos_token_ids)
    tokens = logits.argmax(dim=-1)
    drawing = [row for row, sampling in enumerate(settings) if not sampling.is_greedy]
    if drawing:
        rows = torch.tensor(drawing, device=logits.device)
        drawn = _draw(logits.index_select(0, rows), [sequences[row] for row in drawing])
        tokens = tokens.index_copy(0, rows, drawn)
    chosen: list[int] = tokens.tolist()
    logprobs = _logprobs(logits, tokens, settings)
    return [
        Choice(token=token, logprobs=logprobs.get(row), is_valid=is_valid)
        for row, (token, is_valid) in enumerate(zip(chosen, valid.tolist(), strict=True))
    ]


def _draw(logits: torch.Tensor, sequences: Sequence[LiveSequence]) -> torch.Tensor:
    """[rows] tokens drawn from truncated distributions; rows of NaN give an arbitrary token."""
    settings = [sequence.sampling for sequence in sequences]
    device = logits.device
    temperatures = torch.tensor([sampling.temperature for sampling in settings], dtype=torch.float64, device=device)
    probabilities = truncate(logits.double() / temperatures[:, None], settings)
    cumulative = probabilities.cumsum(dim=-1)
    numbers = uniforms(
        np.array([sampling.seed for sampling in settings], dtype=np.uint64),
        np.array([sequence.output_tokens for sequence in sequences], dtype=np.uint64),
    )
    targets = torch.from_numpy(numbers).to(device)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, targets, right=True)[:, 0]
    return drawn.clamp(max=logits.shape[-1] - 1)


def _logprobs(logits: torch.Tensor, tokens: torch.Tensor, settings: Sequence[SamplingParams]) -> dict[int, Logprobs]:
    """Log-probabilities of the rows that asked for them, by row."""
    asking = [row for row, sampling in enumerate(settings) if sampling.top_logprobs is not None]
    if not asking:
        return {}
    rows = torch.tensor(asking, device=logits.device)
    scores = torch.log_softmax(logits.index_select(0, rows), dim=-1)
    chosen = scores.gather(1, tokens.index_select(0, rows)[:, None])[:, 0].tolist()
    most = min(max(settings[row].top_logprobs or 0 for row in asking), logits.shape[-1])
    values, ids = (part.tolist() for part in scores.topk(most, dim=-1))
    return {
        row: Logprobs(chosen=chosen[at], top=tuple(zip(ids[at], values[at], strict=True))[: settings[row].top_logprobs])
        for at, row in enumerate(asking)
    }
