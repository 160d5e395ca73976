"""Three-dimensional rotary positions of a prompt with images (M-RoPE, Qwen2-VL, arXiv 2409.12191).

A text token advances all three axes by one; an image's tokens share one time and spread over rows and
columns, and the text after it goes on at the largest position so far plus one. After the last image that
is the token's index plus `domain.image.rope_delta`, so the spans are all that must travel with the KV. Pure.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sluice.domain.image import ImageSpan


def rope_positions(tokens: int, spans: Sequence[ImageSpan]) -> npt.NDArray[np.int64]:
    """Positions [3, tokens] of time, row and column. `spans` are in order and do not overlap."""
    positions = np.empty((3, tokens), dtype=np.int64)
    at = following = 0
    for span in spans:
        assert span.first >= at, "spans are in order"
        positions[:, at : span.first] = np.arange(following, following + span.first - at)
        following += span.first - at
        at = span.end
        positions[0, span.first : at] = following
        positions[1, span.first : at] = following + np.repeat(np.arange(span.rows), span.columns)
        positions[2, span.first : at] = following + np.tile(np.arange(span.columns), span.rows)
        following += max(span.rows, span.columns)
    positions[:, at:] = np.arange(following, following + tokens - at)
    return positions
