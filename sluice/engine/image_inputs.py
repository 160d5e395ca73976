"""Puts images into a step: which packed rows they fill, with which embeddings, and everybody's positions.

Image tokens carry ids outside the vocabulary; here they become rows to overwrite. Decides nothing and runs
no model. Next: `language_forward.py`, which uses the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sluice.domain.image import IMAGE_TOKEN_FROM, ImageSpan, rope_delta
from sluice.engine.sequence import LiveSequence
from sluice.engine.step_plan import Work
from sluice.engine.vision.positions import rope_positions

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ImageRows:
    """Image tokens of one step: `rows` [images' tokens] of the packed row, `embeddings` [the same, levels, hidden]."""

    rows: torch.Tensor
    embeddings: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageShape:
    """What one image token is made of."""

    levels: int
    hidden: int
    dtype: torch.dtype
    has_grid: bool  # positions have three axes


def token_ids_without_images(tokens: Ints) -> Ints:
    """Ids the embedding table can look up: image tokens read as 0, to be overwritten."""
    return np.where(tokens < IMAGE_TOKEN_FROM, tokens, 0)


def image_rows(works: Sequence[Work], shape: ImageShape, *, device: torch.device) -> ImageRows | None:
    """The image tokens among those that `works`, packed in this order, compute; None if there are none."""
    rows: list[Ints] = []
    parts: list[torch.Tensor] = []
    start = 0
    for work in works:
        for span in work.sequence.accepted.images:
            first, end = max(span.first, work.first), min(span.end, work.end)
            if first < end:
                rows.append(np.arange(start + first - work.first, start + end - work.first))
                parts.append(_embeddings(work.sequence, span, shape, first=first, end=end))
        start += work.tokens
    if not rows:
        return None
    return ImageRows(rows=torch.from_numpy(np.concatenate(rows)).to(device), embeddings=torch.cat(parts).to(device))


def step_positions(works: Sequence[Work], positions: Ints, *, shape: ImageShape) -> Ints:
    """[3, 1, tokens] where positions have three axes, else [1, tokens]; `positions` are indices in sequences."""
    if not shape.has_grid:
        return positions[None]
    axes = np.repeat(positions[None], 3, axis=0)
    start = 0
    for work in works:
        if work.sequence.accepted.images:
            axes[:, start : start + work.tokens] = _rope(work)
        start += work.tokens
    return axes[:, None]


def _rope(work: Work) -> Ints:
    spans = work.sequence.accepted.images
    if work.first >= spans[-1].end:
        indices = np.arange(work.first, work.end) + rope_delta(spans)
        return np.repeat(indices[None], 3, axis=0)
    begun = [span for span in spans if span.first < work.end]
    known = max([work.end, *(span.end for span in begun)])
    return rope_positions(known, begun)[:, work.first : work.end]


def _embeddings(sequence: LiveSequence, span: ImageSpan, shape: ImageShape, *, first: int, end: int) -> torch.Tensor:
    """Those of the prompt's tokens [first, end), all in `span`: [tokens, levels, hidden]."""
    shift = span.offset - span.first
    rows = sequence.embeddings[span.digest].rows(first + shift, end + shift)
    return torch.from_numpy(rows).view(shape.dtype).view(-1, shape.levels, shape.hidden)
