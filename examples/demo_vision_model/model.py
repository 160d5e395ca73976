"""The vision demo's shape, its start, and its files.

A LLaVA: a CLIP vision tower, a projector, a Llama. Small enough to ship, yet every part of the family is there.
The weights' file holds float16 and config.json says float32: they are rounded once, here, and every later figure
is about the rounded weights computed in float32. Read next: train.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from layout import lay_out
from PIL import Image
from safetensors.torch import save_file
from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

PICTURE_SIDE_PIXELS, PATCH_PIXELS = 48, 16
PICTURE_TOKENS = (PICTURE_SIDE_PIXELS // PATCH_PIXELS) ** 2
VISION_HIDDEN, HIDDEN = 128, 128
MEAN, DEVIATION = 0.5, 0.25  # of a colour channel, for normalising


def new_model(words: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """An untrained model."""
    image = words.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        image_token_index=image,
        image_seq_length=PICTURE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        dtype="float32",
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": PICTURE_SIDE_PIXELS,
            "patch_size": PATCH_PIXELS,
            "projection_dim": VISION_HIDDEN,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": math.ceil(len(words) / 64) * 64,
            "hidden_size": HIDDEN,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "max_position_embeddings": words.model_max_length,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e7},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
    )
    model = LlavaForConditionalGeneration(config)
    _start(model, words)
    return model


@torch.no_grad()
def _start(model: LlavaForConditionalGeneration, words: PreTrainedTokenizerFast) -> None:
    """Small random weights, and what layout.py lays out in them."""
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embed" not in name:
            torch.nn.init.orthogonal_(weight, gain=0.1 if _is_output(name) else 0.7)
        elif "patch_embedding" in name:
            weight.normal_(std=(3 * PATCH_PIXELS**2) ** -0.5)
        elif "position_embedding" in name or "class_embedding" in name:
            weight.normal_(std=0.3)
    lay_out(model, words)


def _is_output(name: str) -> bool:
    """Whether a matrix adds to the residual stream: those start small."""
    return any(part in name for part in ("o_proj", "out_proj", "down_proj", "fc2"))


def pixel_values(images: Sequence[Image.Image]) -> torch.Tensor:
    """What the saved preprocessor settings make of square images: [images, 3, side, side]."""
    side = (PICTURE_SIDE_PIXELS, PICTURE_SIDE_PIXELS)
    small = np.stack([np.asarray(image.resize(side, Image.Resampling.BICUBIC)) for image in images])
    return torch.from_numpy((small.astype(np.float32) / 255 - MEAN) / DEVIATION).permute(0, 3, 1, 2).contiguous()


def save(model: LlavaForConditionalGeneration, out: Path) -> None:
    """Writes config, generation config, preprocessor settings and weights, the weights in float16."""
    model.config.architectures = ["LlavaForConditionalGeneration"]
    model.config.save_pretrained(out)
    end = model.config.text_config.eos_token_id
    padding = model.config.text_config.pad_token_id
    GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=padding).save_pretrained(out)
    side = {"height": PICTURE_SIDE_PIXELS, "width": PICTURE_SIDE_PIXELS}
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "do_center_crop": True,
        "crop_size": side,
        "do_resize": True,
        "size": {"shortest_edge": PICTURE_SIDE_PIXELS},
        "resample": int(Image.Resampling.BICUBIC),
        "do_convert_rgb": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [DEVIATION] * 3,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    tensors = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight" and tensor.is_floating_point()  # the head is tied to the embedding
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
