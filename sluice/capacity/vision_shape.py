"""What of a vision tower decides how long an image takes to encode: its shape, as arithmetic on public configs.

No weights. Pure. Next: `encode_curve.py`, which turns a shape and a GPU class into encode times.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sluice.capacity.model_shape import FLOPS_PER_WEIGHT
from sluice.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionShape:
    """The dimensions of one vision tower. Patches attend to one another within their tile, or their whole image."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    token_patches: int  # patches behind one embedding that the language model reads
    tile_patches: int = 0  # patches of a tile; 0: the image is one
    dtype_bytes: int = 2

    @property
    def weight_bytes(self) -> int:
        """Memory the weights take: attention and feed-forward; the rest is small."""
        return self.layers * self._layer_weights * self.dtype_bytes

    @property
    def patch_flops(self) -> float:
        """Operations of the layers for one patch, attention over other patches not counted."""
        return float(FLOPS_PER_WEIGHT * self.layers * self._layer_weights)

    @property
    def pair_flops(self) -> float:
        """Operations of one patch attending to one other, all layers."""
        return float(2 * FLOPS_PER_WEIGHT * self.layers * self.hidden)

    def patches(self, tokens: int) -> int:
        """How many patches stand behind an image of so many embeddings."""
        return tokens * self.token_patches

    def pairs(self, tokens: int) -> float:
        """How many pairs of patches attend to one another in such an image."""
        patches = self.patches(tokens)
        return float(patches) * min(patches, self.tile_patches or patches)

    @property
    def _layer_weights(self) -> int:
        return 4 * self.hidden * self.hidden + 2 * self.hidden * self.intermediate


# Layers, widths and patches: the vision_config of each model's public config.json. InternVL's tiles of 448 x 448
# become 256 embeddings (pixel shuffle), MiniCPM-V's slices 64 (resampler); Qwen2-VL merges 2 x 2 patches.
_SHAPES: Final = (
    VisionShape(name="Qwen2-VL", layers=32, hidden=1280, intermediate=5120, token_patches=4),
    VisionShape(name="InternViT-300M", layers=24, hidden=1024, intermediate=4096, token_patches=4, tile_patches=1024),
    VisionShape(name="InternViT-6B", layers=45, hidden=3200, intermediate=12800, token_patches=4, tile_patches=1024),
    VisionShape(name="SigLIP-400M", layers=27, hidden=1152, intermediate=4304, token_patches=16, tile_patches=1024),
)
VISION_SHAPES: Final[Mapping[str, VisionShape]] = {shape.name: shape for shape in _SHAPES}


def vision_shape(name: str) -> VisionShape:
    """The tower called `name`, in any case. Raises ConfigError listing the known ones."""
    found = next((shape for shape in _SHAPES if shape.name.lower() == name.strip().lower()), None)
    if found is None:
        raise ConfigError(f"vision tower '{name}' is not known; use one of: {', '.join(VISION_SHAPES)}")
    return found
