"""Makes of a picture what its model's vision tower reads, with the model's own image processor.

Resizing, tiling, normalising and cutting into patches are transformers' (its Pillow backend, so no
torchvision); this adds how many embeddings come out and a fingerprint of the settings. CPU-bound:
call it off the event loop. Next: `encoder.py`.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import AutoConfig, AutoImageProcessor, BatchFeature

from sluice.domain.image import ImageLayout
from sluice.engine.vision.families import family_of
from sluice.engine.vision.picture import DIGEST_BYTES, Picture
from sluice.errors import InvalidRequestError, ModelLoadError


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """One image as its vision tower takes it.

    `pixels`: [patches, values] with a grid, [3, height, width] without, [tiles, 3, height, width] where
    images are cut into tiles. `tokens` embeddings come out of it.
    """

    pixels: npt.NDArray[np.float32]
    tokens: int
    grid: tuple[int, int, int] | None = None  # (1, rows, columns) of patches
    pixel_mask: npt.NDArray[np.bool_] | None = None  # [tiles, height, width], False where padded
    tile_rows: int = 0  # the prompt names each tile by row and column, where images are cut into tiles
    tile_columns: int = 0

    @property
    def nbytes(self) -> int:
        """Memory of its pixels."""
        return self.pixels.nbytes

    def tiles(self, first: int, end: int, *, tokens: int) -> "PreparedImage":
        """Tiles [first, end) by themselves, of which `tokens` embeddings come out; all of them are the image itself."""
        if tokens == self.tokens:
            return self
        assert self.pixel_mask is not None, "only an image that is cut into tiles can be parted"
        pixels, mask = self.pixels[first:end].copy(), self.pixel_mask[first:end].copy()
        return PreparedImage(pixels=pixels, tokens=tokens, pixel_mask=mask)


class Preprocessor:
    """The image processor of one model."""

    def __init__(self, directory: Path) -> None:
        """Raises ModelLoadError if the directory lacks a usable preprocessor_config.json."""
        config: Any = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
        self._family = family_of(config.model_type)
        self._vision: Any = config.vision_config
        self._config = config
        try:
            load: Any = AutoImageProcessor.from_pretrained
            self._processor: Any = load(directory, backend="pil", trust_remote_code=False, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            file = directory / "preprocessor_config.json"
            raise ModelLoadError(f"{file}: {error}; copy the model's files again") from error
        settings = json.dumps(self._processor.to_dict(), sort_keys=True, default=str)
        self.fingerprint = hashlib.blake2b(settings.encode(), digest_size=DIGEST_BYTES).digest()

    def prepare(self, picture: Picture, *, field: str = "image_url") -> PreparedImage:
        """Resize, cut and normalise one picture. Raises InvalidRequestError for one the model cannot take."""
        extra = {"return_row_col_info": True} if self._family.is_tiled else {}
        try:
            made = self._processor(
                images=[picture.pixels], return_tensors="np", input_data_format="channels_last", **extra
            )
        except ValueError as error:
            problem = f"of {picture.pixels.shape[1]} x {picture.pixels.shape[0]} pixels cannot be prepared ({error})"
            raise InvalidRequestError(field=field, problem=problem, remedy="send an image of another shape") from error
        if self._family.has_grid:
            return self._patches(made)
        if self._family.is_tiled:
            return self._tiles(made)
        pixels = np.ascontiguousarray(made["pixel_values"][0], dtype=np.float32)
        return PreparedImage(pixels=pixels, tokens=self._tokens_of_one(pixels.shape[-2], pixels.shape[-1]))

    def layout(self, image: PreparedImage, *, digest: bytes) -> ImageLayout:
        """How a prompt lays out what the tower makes of `image`; `digest` names it."""
        rows, columns = 1, image.tokens
        if image.grid is not None:
            merge = int(self._vision.spatial_merge_size)
            rows, columns = image.grid[1] // merge, image.grid[2] // merge
        tiles = len(image.pixels) if self._family.is_tiled else 1
        return ImageLayout(
            digest=digest,
            tokens=image.tokens,
            rows=rows,
            columns=columns,
            tile_rows=image.tile_rows,
            tile_columns=image.tile_columns,
            tile_tokens=image.tokens // tiles,
        )

    def _patches(self, made: BatchFeature) -> PreparedImage:
        _, rows, columns = (int(length) for length in made["image_grid_thw"][0])
        tokens = rows * columns // int(self._vision.spatial_merge_size) ** 2
        pixels = np.ascontiguousarray(made["pixel_values"], dtype=np.float32)
        return PreparedImage(pixels=pixels, tokens=tokens, grid=(1, rows, columns))

    def _tiles(self, made: BatchFeature) -> PreparedImage:
        pixels = np.ascontiguousarray(made["pixel_values"][0], dtype=np.float32)
        mask = np.ascontiguousarray(made["pixel_attention_mask"][0], dtype=np.bool_)
        tiles, _, height, width = pixels.shape
        patch, scale = int(self._vision.patch_size), int(self._config.scale_factor)
        return PreparedImage(
            pixels=pixels,
            tokens=tiles * (height // patch) * (width // patch) // scale**2,
            pixel_mask=mask,
            tile_rows=int(made["rows"][0][0]),
            tile_columns=int(made["cols"][0][0]),
        )

    def _tokens_of_one(self, height: int, width: int) -> int:
        patch = int(self._vision.patch_size)
        is_whole = getattr(self._config, "vision_feature_select_strategy", "default") == "full"
        return (height // patch) * (width // patch) + int(is_whole)
