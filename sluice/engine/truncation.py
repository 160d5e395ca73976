"""Cuts unlikely tokens out of a distribution: top-k, then top-p of what is left, then min-p.

Row by row independent, ties kept together or broken by token id, so that a row gives the same
result in any batch. Never draws. Next: `sampler.py`, its only user.
"""

from collections.abc import Sequence

import torch

from sluice.domain.sampling import SamplingParams


def truncate(scores: torch.Tensor, settings: Sequence[SamplingParams]) -> torch.Tensor:
    """Probabilities [rows, vocabulary] (not normalised) of `scores`, logits after temperature.

    top_k keeps every token at least as likely as the k-th; top_p the smallest set of likeliest
    tokens (Holtzman et al., 2020) with that much probability, the last one included; min_p those
    with at least that fraction of the likeliest one's probability. The likeliest always stays.
    """
    device, vocabulary = scores.device, scores.shape[-1]
    limits = [min(sampling.top_k, vocabulary) if sampling.top_k else vocabulary for sampling in settings]
    narrow = [row for row, limit in enumerate(limits) if limit < vocabulary]
    if narrow:
        rows = torch.tensor(narrow, device=device)
        part = scores.index_select(0, rows)
        best = part.topk(max(limits[row] for row in narrow), dim=-1).values
        last = torch.tensor([[limits[row] - 1] for row in narrow], device=device)
        scores = scores.index_copy(0, rows, part.masked_fill(part < best.gather(1, last), -torch.inf))
    probabilities = torch.softmax(scores, dim=-1)
    nucleus = [row for row, sampling in enumerate(settings) if sampling.top_p < 1.0]
    if nucleus:
        rows = torch.tensor(nucleus, device=device)
        part = probabilities.index_select(0, rows)
        shares = torch.tensor([[settings[row].top_p] for row in nucleus], dtype=part.dtype, device=device)
        probabilities = probabilities.index_copy(0, rows, _nucleus(part, shares))
    if any(sampling.min_p > 0.0 for sampling in settings):
        floors = torch.tensor([[sampling.min_p] for sampling in settings], dtype=scores.dtype, device=device)
        floors = floors * probabilities.amax(dim=-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < floors, 0.0)
    return probabilities


def _nucleus(probabilities: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """`probabilities` with everything outside the nucleus zeroed."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = ordered.masked_fill(before >= shares, 0.0)
    return torch.zeros_like(probabilities).scatter_(1, order, kept)
