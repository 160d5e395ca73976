"""The vision-language families: which of a model's parts see, which speak, and how an image becomes tokens.

Facts about transformers' classes, checked against generate() in the tests. Adding a family is adding
a row here. Next: `vision_loader.py`, which keeps one half of a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from transformers import PreTrainedConfig

from sluice.errors import ModelLoadError


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionFamily:
    """One `model_type`. Names are attributes of `model.model` or of its config."""

    vision_parts: tuple[str, ...]  # what an encode worker keeps
    language_part: str  # what a prefill or decode worker keeps, beside the head
    vision_depth: str  # config.vision_config's name for its number of layers
    has_grid: bool  # images are packed patches with a (1, height, width) grid, positions are three-dimensional
    is_tiled: bool = False  # an image becomes tiles of one size, which the prompt names by row and column
    deepstack: str = ""  # config.vision_config's list of layers whose features enter the language model's first layers


_QWEN: Final = VisionFamily(
    vision_parts=("visual",), language_part="language_model", vision_depth="depth", has_grid=True
)
_QWEN3: Final = VisionFamily(
    vision_parts=("visual",),
    language_part="language_model",
    vision_depth="depth",
    has_grid=True,
    deepstack="deepstack_visual_indexes",
)
_LLAVA: Final = VisionFamily(
    vision_parts=("vision_tower", "multi_modal_projector"),
    language_part="language_model",
    vision_depth="num_hidden_layers",
    has_grid=False,
)
_IDEFICS: Final = VisionFamily(
    vision_parts=("vision_model", "connector"),
    language_part="text_model",
    vision_depth="num_hidden_layers",
    has_grid=False,
    is_tiled=True,
)

FAMILIES: Final[Mapping[str, VisionFamily]] = {
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN3,
    "llava": _LLAVA,
    "smolvlm": _IDEFICS,
    "idefics3": _IDEFICS,
}


def embedding_levels(config: PreTrainedConfig) -> int:
    """How many vectors an image token has: one for the embedding, one for each layer of deepstack."""
    whole: Any = config
    family = family_of(whole.model_type)
    return 1 + (len(getattr(whole.vision_config, family.deepstack)) if family.deepstack else 0)


def family_of(model_type: str) -> VisionFamily:
    """The family of a config's `model_type`. Raises ModelLoadError for one that is not known."""
    family = FAMILIES.get(model_type)
    if family is None:
        known = ", ".join(FAMILIES)
        raise ModelLoadError(f"config.json: model_type '{model_type}' has no known vision part; use one of {known}")
    return family
