"""How long images take to encode on one replica: the question that placement, planner and simulator ask.

Linear in embeddings, with a term for pairs of patches where a tower attends over whole images. The same
form comes from a datasheet, from a published figure or from measurements. Pure.
Next: `vision_shape.py` for towers, `step_curve.py` for the language model's half.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sluice.capacity.curve_fit import nonnegative_least_squares
from sluice.capacity.gpu_class import GpuClass
from sluice.capacity.roofline import MEASURED, Losses
from sluice.capacity.vision_shape import VisionShape


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeCurve:
    """Seconds per batch of images as a sum of terms; every coefficient is >= 0."""

    batch_s: float  # launching, reading weights
    image_s: float  # decode, resize and patchify, as far as the accelerator waits for it
    token_s: float  # per embedding that comes out
    token_pair_s: float = 0.0  # per square of an image's embeddings
    error: float = 0.1  # standard deviation of (measured / predicted - 1)
    samples: int = 0  # measurements behind it; 0: a prior

    def encode_s(self, image_tokens: Sequence[int]) -> float:
        """Seconds to encode these images, given by their embeddings, as one batch; 0 without any."""
        if not image_tokens:
            return 0.0
        squares = sum(tokens * tokens for tokens in image_tokens)
        return (
            self.batch_s
            + self.image_s * len(image_tokens)
            + self.token_s * sum(image_tokens)
            + self.token_pair_s * squares
        )

    def times(self, factor: float) -> "EncodeCurve":
        """The curve of a replica that takes `factor` times as long."""
        return replace(
            self,
            batch_s=self.batch_s * factor,
            image_s=self.image_s * factor,
            token_s=self.token_s * factor,
            token_pair_s=self.token_pair_s * factor,
        )


def datasheet_curve(
    gpu: GpuClass, shape: VisionShape, *, losses: Losses = MEASURED, image_s: float = 0.0
) -> EncodeCurve:
    """What a GPU's datasheet allows a tower, less the losses measured for language models; a prior only."""
    compute = gpu.flop_per_s * losses.compute
    patch_s = shape.patch_flops / compute
    pair_s = shape.pair_flops / (gpu.flop_per_s * losses.attention)
    in_tiles = shape.tile_patches > 0
    per_tile_s = pair_s * shape.tile_patches if in_tiles else 0.0
    return EncodeCurve(
        batch_s=losses.step_s,
        image_s=image_s,
        token_s=shape.token_patches * (patch_s + per_tile_s),
        token_pair_s=0.0 if in_tiles else pair_s * shape.token_patches**2,
    )


def fit_encode_curve(batches: Sequence[Sequence[int]], seconds: Sequence[float]) -> EncodeCurve:
    """The curve nearest to measured batches (images given by their embeddings), by relative error; 3 or more."""
    assert len(batches) == len(seconds) >= 3, "two terms and a constant need three measurements"
    columns = np.array([[1.0, len(batch), sum(batch)] for batch in batches])
    rows = columns / np.asarray(seconds)[:, None]
    terms = nonnegative_least_squares(rows, np.ones(len(seconds)))
    batch_s, image_s, token_s = (float(term) for term in terms)
    error = float(np.std(1.0 / np.maximum(rows @ terms, 1e-12) - 1.0))
    return EncodeCurve(batch_s=batch_s, image_s=image_s, token_s=token_s, error=error, samples=len(seconds))
