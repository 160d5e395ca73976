"""Chooses the encode worker for one image: who has its embeddings, else who would be done with it first.

Called image by image, with what was given out before counted in, so that a request's images spread over all
encode workers (intra-request parallelism, EPD, arXiv 2501.05460). Pure. Next: `router/encode_desk.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

LOOK_TOKENS: Final = 512
"""A picture whose size nobody knows yet counts as so many tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderView:
    """What is known of one encode worker that admits work."""

    slot: int
    cached: bool  # it has all embeddings of the image
    prepared: bool  # it has looked at the picture
    queued_tokens: int  # embeddings it still has to make, as it said, and as it was told since
    looks: int  # pictures on their way to it whose size nobody knows yet


def choose_encoder(encoders: Iterable[EncoderView]) -> EncoderView | None:
    """The encoder for an image; None if there is none."""
    return min(encoders, key=_cost, default=None)


def _cost(view: EncoderView) -> tuple[bool, bool, int, int]:
    queue = view.queued_tokens + LOOK_TOKENS * view.looks
    return (not view.cached, not view.prepared, queue, view.slot)
