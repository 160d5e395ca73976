"""Makes small vision-language models of every family with random weights, for tests and benchmarks.

Seeded. Their answers mean nothing; transformers' generate() of the same files is the oracle. Never used
while serving. Next: `vision_loader.py` and `preprocessor.py` read what this writes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import logging as transformers_logging

VOCABULARY: Final = 200
IMAGE_TOKEN: Final = 190
HIDDEN: Final = 64
PATCH: Final = 14

_TEXT: Final[Mapping[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_MROPE: Final = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
_SPECIAL: Final = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": 191,
    "vision_start_token_id": 192,
    "vision_end_token_id": 193,
}
_TOWER: Final = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
_QWEN_TOWER: Final = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2}
_QWEN_SIZE: Final = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 24}

CONFIGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "qwen2_vl": {
        **_SPECIAL,
        "text_config": {**_TEXT, "rope_parameters": _MROPE},
        "vision_config": {**_QWEN_TOWER, "embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2},
    },
    "qwen2_5_vl": {
        **_SPECIAL,
        "text_config": {**_TEXT, "rope_parameters": _MROPE},
        "vision_config": {
            **_QWEN_TOWER,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
    },
    "qwen3_vl": {
        **_SPECIAL,
        "text_config": {**_TEXT, "head_dim": 16, "rope_parameters": {**_MROPE, "mrope_interleaved": True}},
        "vision_config": {
            **_QWEN_TOWER,
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
    },
    "llava": {
        "image_token_index": IMAGE_TOKEN,
        "image_seq_length": 16,
        "text_config": {**_TEXT, "model_type": "llama"},
        "vision_config": {
            **_TOWER,
            "model_type": "clip_vision_model",
            "image_size": 56,
            "patch_size": PATCH,
            "projection_dim": 32,
        },
    },
    "smolvlm": {
        "image_token_id": IMAGE_TOKEN,
        "scale_factor": 2,
        "pad_token_id": 0,
        "text_config": {**_TEXT, "model_type": "llama"},
        "vision_config": {**_TOWER, "image_size": 56, "patch_size": PATCH},
    },
    "idefics3": {
        "image_token_id": IMAGE_TOKEN,
        "scale_factor": 2,
        "pad_token_id": 0,
        "text_config": {**_TEXT, "model_type": "llama"},
        "vision_config": {**_TOWER, "image_size": 56, "patch_size": PATCH},
    },
}
"""What makes each family itself; everything else is its config class's default."""

_CLIP: Final = {"crop_size": {"height": 56, "width": 56}, "size": {"shortest_edge": 56}}
_TILES: Final = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}, "do_image_splitting": True}
_PROCESSORS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "qwen2_vl": ("Qwen2VLImageProcessor", {"size": _QWEN_SIZE, "patch_size": PATCH}),
    "qwen2_5_vl": ("Qwen2VLImageProcessor", {"size": _QWEN_SIZE, "patch_size": PATCH}),
    "qwen3_vl": ("Qwen2VLImageProcessor", {"size": _QWEN_SIZE, "patch_size": PATCH}),
    "llava": ("CLIPImageProcessor", _CLIP),
    "smolvlm": ("SmolVLMImageProcessor", _TILES),
    "idefics3": ("Idefics3ImageProcessor", _TILES),
}


def save_random_vision_model(
    directory: Path,
    *,
    family: str,
    seed: int = 0,
    spread: float = 0.2,
    config: Mapping[str, Any] | None = None,
    processor: Mapping[str, Any] | None = None,
) -> None:
    """Write config, weights and preprocessor settings of one of CONFIGS to `directory`.

    `config` instead of the family's own, and `processor` settings over its own, make other sizes. `spread` is
    the standard deviation of the weights, wide enough that rounding decides no token.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers is partly typed
    made = AutoConfig.for_model(family, **(config or CONFIGS[family]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make: Any = AutoModelForImageTextToText.from_config
        model = make(made, dtype=torch.float32, attn_implementation="eager")
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=spread)
                else:
                    weight.add_(torch.randn_like(weight) * spread / 10)
    model.save_pretrained(directory)
    kind, settings = _PROCESSORS[family]
    written = json.dumps({"image_processor_type": kind, **settings, **(processor or {})}, indent=2)
    (directory / "preprocessor_config.json").write_text(written)
