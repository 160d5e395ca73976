"""Images from strangers: good ones become pixels, all others a clear refusal; nothing crashes."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sluice.engine.vision.picture import FORMATS, Picture, PictureLimits, decode_picture
from sluice.errors import InvalidRequestError

LIMITS = PictureLimits(file_bytes_max=200_000, pixels_max=250_000, side_pixels_max=2000)


def drawn(width: int = 30, height: int = 20, *, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decode(data: bytes) -> Picture:
    return decode_picture(data, limits=LIMITS)


def refusal(data: bytes) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        decode(data)
    assert caught.value.field == "image_url"
    return caught.value


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_upright_in_rgb(kind: str) -> None:
    picture = decode(saved(drawn(), kind))
    assert picture.pixels.shape == (20, 30, 3)
    assert picture.pixels.dtype == np.uint8


def test_lossless_formats_of_one_picture_have_one_digest_and_another_picture_another() -> None:
    assert decode(saved(drawn(), "PNG")).digest == decode(saved(drawn(), "BMP")).digest
    assert decode(saved(drawn(seed=1))).digest != decode(saved(drawn())).digest
    wide, high = np.zeros((20, 30, 3), np.uint8), np.zeros((30, 20, 3), np.uint8)
    assert decode(saved(Image.fromarray(wide))).digest != decode(saved(Image.fromarray(high))).digest


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    grey = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)) if mode == "I;16" else drawn().convert(mode)
    assert decode(saved(grey)).pixels.shape == (20, 30, 3)


def test_transparent_parts_are_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (decode(saved(clear)).pixels == 255).all()


def test_a_photograph_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert decode(saved(drawn(30, 20), "JPEG", exif=exif)).pixels.shape == (30, 20, 3)


def test_an_animation_is_refused() -> None:
    frames = [drawn(seed=seed) for seed in range(3)]
    assert "animated" in str(refusal(saved(frames[0], "GIF", save_all=True, append_images=frames[1:])))


def test_a_huge_canvas_is_refused_from_its_header_alone() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    assert "60000" in str(refusal(bomb)) or "bomb" in str(refusal(bomb))


@pytest.mark.parametrize(("width", "height"), [(600, 500), (2001, 1), (1, 101), (500, 4)])
def test_wrong_shapes_are_refused_with_the_limit(width: int, height: int) -> None:
    assert refusal(saved(Image.new("RGB", (width, height)))).remedy


def test_empty_large_and_foreign_files_are_refused() -> None:
    assert "empty" in str(refusal(b""))
    assert "200001 bytes" in str(refusal(bytes(200_001)))
    for foreign in (
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"GIF89a",
        b"\xff\xd8\xff",
        b"RIFF    WEBP",
    ):
        assert "cannot be read" in str(refusal(foreign)) or "can be read" in str(refusal(foreign))


def test_a_thousand_broken_files_are_decoded_or_refused_and_nothing_else() -> None:
    rng = random.Random(3)
    whole = [saved(drawn(seed=seed), kind) for seed, kind in enumerate(FORMATS)]
    outcomes = {"read": 0, "refused": 0}
    for _ in range(1000):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(1, 12)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        try:
            assert decode(bytes(data)).pixels.ndim == 3
            outcomes["read"] += 1
        except InvalidRequestError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 100
    assert outcomes["read"] > 100
