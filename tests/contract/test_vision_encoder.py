"""An encoder without a language model gives what the whole model's tower gives, image by image or in batches."""

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from sluice.domain.image import IMAGE_DIGEST_BYTES, ImageSpan, rope_delta
from sluice.engine.vision import encoder as encoding
from sluice.engine.vision.encoder import VisionEncoder
from sluice.engine.vision.families import FAMILIES
from sluice.engine.vision.picture import Picture, PictureLimits, decode_picture
from sluice.engine.vision.positions import rope_positions
from sluice.engine.vision.preprocessor import PreparedImage, Preprocessor
from sluice.engine.vision.random_vision_models import CONFIGS, IMAGE_TOKEN, save_random_vision_model
from sluice.engine.vision.vision_loader import load_language_part
from sluice.errors import InvalidRequestError, ModelLoadError

CPU = torch.device("cpu")
SIZES = [(60, 90), (100, 40), (56, 56), (30, 200)]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(request.param)
    save_random_vision_model(made, family=request.param)
    return made


def picture(height: int, width: int, *, seed: int = 0) -> Picture:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return decode_picture(file.getvalue(), limits=PictureLimits())


def prepared(directory: Path) -> list[PreparedImage]:
    preprocessor = Preprocessor(directory)
    return [preprocessor.prepare(picture(height, width, seed=height)) for height, width in SIZES]


def whole_model(directory: Path) -> PreTrainedModel:
    module: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    return module


def test_the_tower_alone_gives_the_whole_models_embeddings(directory: Path) -> None:
    images = prepared(directory)
    alone = VisionEncoder.load(directory, dtype=torch.float32, device=CPU).encode(images)
    expected = VisionEncoder(whole_model(directory)).encode(images)
    assert [embedding.shape[0] for embedding in alone] == [image.tokens for image in images]
    for got, wanted in zip(alone, expected, strict=True):
        assert torch.equal(got, wanted)


def test_an_images_embeddings_do_not_depend_on_its_batch(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = prepared(directory)
    encoder = VisionEncoder.load(directory, dtype=torch.float32, device=CPU)
    together = encoder.encode(images)
    apart = [encoder.encode([image])[0] for image in images]
    monkeypatch.setattr(encoding, "BATCH_TOKENS_MAX", 10)
    in_small_batches = encoder.encode(images)
    for one, two, three in zip(together, apart, in_small_batches, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one, three, atol=1e-5, rtol=1e-5)
    assert encoder.encode([]) == []


def test_each_half_is_smaller_than_the_whole_and_lacks_the_other(directory: Path) -> None:
    whole = sum(weight.numel() for weight in whole_model(directory).parameters())
    tower = VisionEncoder.load(directory, dtype=torch.float32, device=CPU).weight_bytes // 4
    language = load_language_part(directory, dtype=torch.float32, device=CPU)
    family = FAMILIES[language.config.model_type]
    spoken = sum(weight.numel() for weight in language.parameters())
    assert tower + spoken <= whole + 64  # the tower's stub vocabulary of one token
    assert all(getattr(language.model, part) is None for part in family.vision_parts)


def test_a_model_with_a_weight_missing_is_refused_by_name(directory: Path, tmp_path: Path) -> None:
    whole = whole_model(directory)
    state = whole.state_dict()
    family = FAMILIES[whole.config.model_type]
    lost = next(key for key in state if key.startswith(f"model.{family.vision_parts[-1]}."))
    del state[lost]
    whole.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ModelLoadError, match="copy"):
        VisionEncoder.load(tmp_path, dtype=torch.float32, device=CPU)


def test_a_model_without_preprocessor_settings_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    with pytest.raises(ModelLoadError, match="preprocessor_config"):
        Preprocessor(tmp_path)


def test_pictures_of_any_shape_the_limits_allow_are_prepared(directory: Path) -> None:
    preprocessor = Preprocessor(directory)
    for height, width in [(1, 1), (1, 90), (300, 3)]:
        assert preprocessor.prepare(picture(height, width)).tokens > 0


def test_a_picture_too_thin_for_its_processor_is_refused_by_field(tmp_path: Path) -> None:
    save_random_vision_model(tmp_path, family="qwen2_vl")
    thin = Picture(pixels=np.zeros((1, 300, 3), np.uint8), digest=b"")
    with pytest.raises(InvalidRequestError, match="another shape") as caught:
        Preprocessor(tmp_path).prepare(thin, field="messages[0].content[1]")
    assert caught.value.field == "messages[0].content[1]"


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    grids=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=4, max_size=4),
)
def test_positions_are_those_of_the_model(gaps: list[int], grids: list[tuple[int, int]]) -> None:
    ids: list[int] = []
    spans: list[ImageSpan] = []
    for gap, (rows, columns) in zip(gaps, grids, strict=False):
        ids += [5] * gap
        spans.append(ImageSpan(digest=bytes(IMAGE_DIGEST_BYTES), first=len(ids), rows=rows, columns=columns))
        ids += [IMAGE_TOKEN] * (rows * columns)
    ids += [7] * gaps[-1]
    expected, delta = model_positions(ids, [(1, 2 * span.rows, 2 * span.columns) for span in spans])
    assert rope_positions(len(ids), spans).tolist() == expected
    assert rope_delta(spans) == delta
    assert all(earlier.end <= later.first for earlier, later in pairwise(spans))


_CONFIG: Any = Qwen2_5_VLConfig(**CONFIGS["qwen2_5_vl"])
with torch.device("meta"):
    _MODEL: Any = Qwen2_5_VLForConditionalGeneration(_CONFIG)


def model_positions(ids: list[int], grids: list[tuple[int, int, int]]) -> tuple[list[list[int]], int]:
    row = torch.tensor([ids])
    positions, delta = _MODEL.model.get_rope_index(
        row,
        mm_token_type_ids=(row == IMAGE_TOKEN).int(),
        image_grid_thw=torch.tensor(grids),
        attention_mask=torch.ones_like(row),
    )
    return positions[:, 0].tolist(), int(delta)
