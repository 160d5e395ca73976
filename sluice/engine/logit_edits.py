"""Changes to logits that depend on a sequence's own tokens and wishes, before any sampling.

Repetition penalty (Keskar et al., CTRL, 2019: over prompt and output, positive logits divided,
negative ones multiplied), presence and frequency penalties (OpenAI's, over output only), logit
bias, and tokens that min_tokens bars. Never draws or truncates. Next: `truncation.py`.
"""

from collections.abc import Sequence

import numpy as np
import torch

from sluice.domain.image import IMAGE_TOKEN_FROM
from sluice.engine.sequence import LiveSequence
from sluice.engine.stopping import barred_tokens


def needs_edits(sequence: LiveSequence) -> bool:
    """Whether the row of `sequence` is changed at all."""
    sampling = sequence.sampling
    return sampling.has_penalties or bool(sampling.logit_bias) or sequence.output_tokens < sampling.min_tokens


def edit_logits(
    logits: torch.Tensor, sequences: Sequence[LiveSequence], *, eos_token_ids: tuple[int, ...]
) -> torch.Tensor:
    """Edited float32 `logits` [rows, vocabulary]; rows that want nothing come back bit for bit."""
    logits = logits.clone()
    for row, sequence in enumerate(sequences):
        sampling = sequence.sampling
        if sampling.has_penalties:
            _penalise(logits[row], sequence)
        if sampling.logit_bias:
            tokens, biases = zip(*sampling.logit_bias, strict=True)
            index = torch.tensor(tokens, device=logits.device)
            logits[row].index_add_(0, index, torch.tensor(biases, device=logits.device))
        barred = barred_tokens(sampling, output_tokens=sequence.output_tokens, eos_token_ids=eos_token_ids)
        known = [token for token in barred if token < logits.shape[-1]]
        if known:
            logits[row, known] = -torch.inf
    return logits


def _penalise(row: torch.Tensor, sequence: LiveSequence) -> None:
    """Apply the penalties of one sequence to its `row` [vocabulary], in place."""
    sampling, prompt = sequence.sampling, sequence.accepted.prompt_tokens
    if sampling.repetition_penalty != 1.0:
        tokens = np.unique(np.array(sequence.tokens, dtype=np.int64))
        seen = torch.from_numpy(tokens[tokens < IMAGE_TOKEN_FROM]).to(row.device)
        scores = row.index_select(0, seen)
        penalty = sampling.repetition_penalty
        row.index_copy_(0, seen, torch.where(scores > 0, scores / penalty, scores * penalty))
    if sequence.output_tokens and (sampling.presence_penalty or sampling.frequency_penalty):
        tokens, counts = np.unique(np.array(sequence.tokens[prompt:], dtype=np.int64), return_counts=True)
        penalties = sampling.presence_penalty + sampling.frequency_penalty * counts
        index = torch.from_numpy(tokens).to(row.device)
        row.index_add_(0, index, -torch.from_numpy(penalties).to(device=row.device, dtype=row.dtype))
