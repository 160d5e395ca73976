"""Tiny random vision-language models, pictures, and what generate() says of prompts with them."""

import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from sluice.engine.vision.encoder import VisionEncoder
from sluice.engine.vision.picture import PictureLimits, decode_picture
from sluice.engine.vision.preprocessor import PreparedImage, Preprocessor
from sluice.engine.vision.random_vision_models import IMAGE_TOKEN, VOCABULARY, save_random_vision_model

NEW_TOKENS = 12
PLACEHOLDER = "<|image_pad|>"
TEMPLATE = (
    "{% for m in messages %}{% for part in m.content %}"
    "{% if part.type == 'image' %} <|image_pad|> {% else %} {{ part.text }} {% endif %}"
    "{% endfor %}{% endfor %} w9"
)


MANY_TILES = {"size": {"longest_edge": 224}}
"""Settings of an image processor that cuts pictures into up to 4 x 4 tiles, where it cuts them at all."""


def make_vision_model(directory: Path, family: str, *, processor: Mapping[str, Any] | None = None) -> Path:
    """A random model of one family whose tokens are words w0 to w199; greedy answers are stable in float32.

    `processor` settings go over the family's own.
    """
    directory.mkdir(parents=True, exist_ok=True)
    save_random_vision_model(directory, family=family, processor=processor)
    words = {f"w{token}": token for token in range(VOCABULARY) if token != IMAGE_TOKEN} | {PLACEHOLDER: IMAGE_TOKEN}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([PLACEHOLDER])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return directory


def picture_file(seed: int, *, form: str = "PNG", sides: tuple[int, int] = (30, 120)) -> bytes:
    """A picture of random size (pixels a side, from and below) and colours, as a file."""
    rng = random.Random(seed)
    shape = (rng.randrange(*sides), rng.randrange(*sides), 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=form)
    return file.getvalue()


@dataclass(frozen=True)
class Shown:
    """A prompt with one placeholder per picture."""

    ids: tuple[int, ...]
    files: tuple[bytes, ...]


def shown(seed: int, files: list[bytes], *, text_tokens: int = 30) -> Shown:
    """Random text around these pictures."""
    rng = random.Random(seed)
    ids = [rng.randrange(3, 180) for _ in range(rng.randrange(3, text_tokens))]
    for _ in files:
        ids += [IMAGE_TOKEN, *(rng.randrange(3, 180) for _ in range(rng.randrange(2, 20)))]
    return Shown(tuple(ids), tuple(files))


class Oracle:
    """transformers itself over the same files."""

    def __init__(self, directory: Path) -> None:
        self._preprocessor = Preprocessor(directory)
        self._model: Any = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()

    def answer(self, prompt: Shown, *, new_tokens: int = NEW_TOKENS) -> list[int]:
        """What generate() answers."""
        images = [self._prepared(data) for data in prompt.files]
        ids: list[int] = []
        following = iter(images)
        for token in prompt.ids:
            ids += [token] if token != IMAGE_TOKEN else [IMAGE_TOKEN] * next(following).tokens
        row = torch.tensor([ids])
        inputs: dict[str, Any] = {"attention_mask": torch.ones_like(row)}
        if images:
            inputs |= VisionEncoder(self._model)._inputs(images)
            if images[0].grid is not None:
                inputs["mm_token_type_ids"] = (row == IMAGE_TOKEN).int()
        elif self._model.config.model_type.startswith("qwen"):
            inputs["mm_token_type_ids"] = torch.zeros_like(row).int()
        made = self._model.generate(row, max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, **inputs)
        answer: list[int] = made[0, len(ids) :].tolist()
        return answer

    def _prepared(self, data: bytes) -> PreparedImage:
        return self._preprocessor.prepare(decode_picture(data, limits=PictureLimits()))
