"""How long images take to encode: from a tower's shape and a datasheet, or from measurements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.capacity.catalogue import gpu_class
from sluice.capacity.encode_curve import EncodeCurve, datasheet_curve, fit_encode_curve
from sluice.capacity.vision_shape import VISION_SHAPES, vision_shape
from sluice.errors import ConfigError


def test_towers_have_about_the_weights_they_are_named_for() -> None:
    # Millions of weights as published; patch embeddings and projectors are not counted here.
    published = {"Qwen2-VL": 675, "InternViT-300M": 304, "InternViT-6B": 5540, "SigLIP-400M": 400}
    for name, shape in VISION_SHAPES.items():
        assert shape.weight_bytes / 2e6 == pytest.approx(published[name], rel=0.1)


def test_a_tower_that_nobody_knows_is_refused_with_the_known_ones() -> None:
    assert vision_shape("internvit-6b").hidden == 3200
    with pytest.raises(ConfigError, match="use one of: Qwen2-VL"):
        vision_shape("eyes")


@pytest.mark.parametrize("name", VISION_SHAPES)
def test_a_faster_gpu_encodes_faster_and_more_takes_longer(name: str) -> None:
    shape = vision_shape(name)
    fast, slow = (datasheet_curve(gpu_class(gpu), shape) for gpu in ("H100", "L4"))
    assert fast.encode_s([480]) < slow.encode_s([480]) < slow.encode_s([480, 480])
    assert slow.encode_s([]) == 0.0


def test_whole_image_attention_makes_one_large_image_dearer_than_small_ones() -> None:
    curve = datasheet_curve(gpu_class("L4"), vision_shape("Qwen2-VL"))
    assert curve.encode_s([4000]) > curve.encode_s([1000] * 4)
    tiled = datasheet_curve(gpu_class("L4"), vision_shape("InternViT-300M"))
    assert tiled.encode_s([4096]) == pytest.approx(tiled.encode_s([1024] * 4))


@given(st.floats(0, 0.1), st.floats(0, 0.1), st.floats(1e-6, 1e-3))
def test_a_measured_curve_is_found_again(batch_s: float, image_s: float, token_s: float) -> None:
    true = EncodeCurve(batch_s=batch_s, image_s=image_s, token_s=token_s)
    batches = [[100], [100] * 4, [400], [1000, 50], [2000] * 3, [64] * 8]
    found = fit_encode_curve(batches, [true.encode_s(batch) for batch in batches])
    for batch in ([500], [300, 300], [1500] * 2):
        assert found.encode_s(batch) == pytest.approx(true.encode_s(batch), rel=0.01)
    assert found.samples == len(batches)
