"""Runs a vision tower and its projector: prepared images in, embeddings out. Holds no language weights.

Images of different requests share a batch; a request's images may as well go to several encoders,
for every image's embeddings depend on that image alone. One thread calls it.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from sluice.engine.vision.families import embedding_levels, family_of
from sluice.engine.vision.preprocessor import PreparedImage
from sluice.engine.vision.vision_loader import load_vision_part

BATCH_TOKENS_MAX: Final = 16_384
"""Embeddings of one forward pass: bounds the vision tower's activations."""


class VisionEncoder:
    """The encode phase of one model."""

    def __init__(self, module: PreTrainedModel) -> None:
        """`module` from load_vision_part()."""
        self._module = module
        self._inner: Any = module.model
        self._family = family_of(str(module.config.model_type))

    @classmethod
    def load(cls, directory: Path, *, dtype: torch.dtype, device: torch.device) -> "VisionEncoder":
        """The encoder of the model in `directory`. Raises ModelLoadError."""
        return cls(load_vision_part(directory, dtype=dtype, device=device))

    @property
    def levels(self) -> int:
        """How many vectors an image token has."""
        return embedding_levels(self._module.config)

    @property
    def hidden(self) -> int:
        """How long each of them is."""
        return int(self._module.config.get_text_config().hidden_size)

    @property
    def weight_bytes(self) -> int:
        """Memory of all weights it holds."""
        return sum(weight.numel() * weight.element_size() for weight in self._module.parameters())

    def encode(self, images: Sequence[PreparedImage]) -> list[torch.Tensor]:
        """Embeddings of each image, [tokens, levels, hidden] each, on the encoder's device.

        Level 0 replaces the image tokens' embeddings; level k is added after the language model's layer
        k - 1 (Qwen3-VL; other families have one level).
        """
        embeddings: list[torch.Tensor] = []
        for first, end in pairwise(_batch_bounds(images)):
            embeddings += self._encode(images[first:end])
        return embeddings

    def rows(self, images: Sequence[PreparedImage]) -> list[npt.NDArray[np.uint8]]:
        """The same in main memory as bytes, [tokens, levels * hidden * item] each."""
        return [_as_bytes(embeddings) for embeddings in self.encode(images)]

    @torch.inference_mode()
    def _encode(self, images: Sequence[PreparedImage]) -> list[torch.Tensor]:
        made = self._inner.get_image_features(**self._inputs(images))
        levels = [_joined(made.pooler_output)]
        levels += [_joined(feature) for feature in getattr(made, "deepstack_features", None) or ()]
        stacked = torch.stack(levels, dim=1)
        return list(torch.split(stacked, [image.tokens for image in images]))

    def _inputs(self, images: Sequence[PreparedImage]) -> dict[str, torch.Tensor]:
        device = self._module.device
        if self._family.has_grid:
            pixels = np.concatenate([image.pixels for image in images])
            grids = np.asarray([image.grid for image in images], dtype=np.int64)
            return {
                "pixel_values": torch.from_numpy(pixels).to(device),
                "image_grid_thw": torch.from_numpy(grids).to(device),
            }
        masks = [image.pixel_mask for image in images if image.pixel_mask is not None]
        if masks:
            tiles = np.concatenate([image.pixels for image in images])[None]
            return {
                "pixel_values": torch.from_numpy(tiles).to(device),
                "pixel_attention_mask": torch.from_numpy(np.concatenate(masks)[None]).to(device),
            }
        batch = torch.from_numpy(np.stack([image.pixels for image in images]))
        return {"pixel_values": batch.to(device, self._module.dtype)}


def _as_bytes(embeddings: torch.Tensor) -> npt.NDArray[np.uint8]:
    rows: npt.NDArray[np.uint8] = embeddings.contiguous().cpu().view(torch.uint8).numpy()
    return rows.reshape(len(embeddings), -1)


def _joined(feature: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """[all tokens, hidden], whether the family gives one tensor, one per image, or one row per tile."""
    whole = feature if isinstance(feature, torch.Tensor) else torch.cat(list(feature))
    return whole.reshape(-1, whole.shape[-1])


def _batch_bounds(images: Sequence[PreparedImage]) -> list[int]:
    """Where batches of at most BATCH_TOKENS_MAX embeddings begin and end; an image is never cut.

    Images of one batch agree in size where the tower wants one size.
    """
    bounds, tokens = [0], 0
    for index, image in enumerate(images):
        is_other_size = image.grid is None and image.pixels.shape[-2:] != images[index - 1].pixels.shape[-2:]
        if index and (tokens + image.tokens > BATCH_TOKENS_MAX or is_other_size):
            bounds.append(index)
            tokens = 0
        tokens += image.tokens
    return [*bounds, len(images)] if images else [0]
