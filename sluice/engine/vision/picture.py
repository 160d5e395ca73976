"""Turns the bytes of an image file into pixels, and refuses what is not one still picture of a sane size.

The header is read first and the limits checked before a pixel is decoded, so that a small file
cannot claim a huge canvas (a decompression bomb). Only formats whose decoders are widely fuzzed are
opened. Never fetches anything; makes a picture smaller only if asked to, for models' own sizes are
`preprocessor.py`'s. CPU-bound: call it off the
event loop.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from sluice.errors import InvalidRequestError

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """What one image may be."""

    file_bytes_max: int = 20 * 1024 * 1024
    pixels_max: int = 36_000_000
    side_pixels_max: int = 16_384
    aspect_max: float = 100.0  # longer side over shorter side


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded still image. `digest` names its pixels: equal pictures have equal digests, whatever their files."""

    pixels: npt.NDArray[np.uint8]  # [height, width, 3], RGB, upright, transparency over white
    digest: bytes


def decode_picture(data: bytes, *, limits: PictureLimits, field: str = "image_url", side_max: int = 0) -> Picture:
    """Decode one image file; with a `side_max` its longer side is made that many pixels, if it has more.

    Raises InvalidRequestError naming `field` for everything that is not acceptable.
    """
    if not data:
        raise _refusal(field, "is empty", "send the image's bytes")
    if len(data) > limits.file_bytes_max:
        raise _refusal(field, f"has {len(data)} bytes", f"send at most {limits.file_bytes_max}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_header(image, limits=limits, field=field)
                image.load()
                pixels = _rgb(image, side_max=side_max)
    except InvalidRequestError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError,
            Image.DecompressionBombWarning, ArithmeticError, LookupError, TypeError) as error:  # fmt: skip
        known = ", ".join(FORMATS)
        raise _refusal(field, f"is not an image that can be read ({_brief(error)})", f"send one of {known}") from error
    return Picture(pixels=pixels, digest=_digest(pixels))


def _check_header(image: Image.Image, *, limits: PictureLimits, field: str) -> None:
    width, height = image.size
    if width * height > limits.pixels_max or max(width, height) > limits.side_pixels_max:
        remedy = f"send at most {limits.pixels_max} pixels and {limits.side_pixels_max} a side"
        raise _refusal(field, f"is {width} x {height} pixels", remedy)
    if min(width, height) == 0 or max(width, height) > limits.aspect_max * min(width, height):
        remedy = f"send an image whose longer side is at most {limits.aspect_max:g} times the shorter"
        raise _refusal(field, f"is {width} x {height} pixels", remedy)
    if getattr(image, "n_frames", 1) > 1:
        raise _refusal(field, "is animated", "send a still image")


def _rgb(image: Image.Image, *, side_max: int) -> npt.NDArray[np.uint8]:
    upright = ImageOps.exif_transpose(image)
    if upright.mode in {"RGBA", "LA", "PA"} or "transparency" in upright.info:
        layered = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    upright = upright.convert("RGB")
    if side_max:
        upright.thumbnail((side_max, side_max), Image.Resampling.BICUBIC)
    return np.asarray(upright, dtype=np.uint8)


def _digest(pixels: npt.NDArray[np.uint8]) -> bytes:
    shape = np.asarray(pixels.shape, dtype="<u4").tobytes()
    return hashlib.blake2b(shape + pixels.tobytes(), digest_size=DIGEST_BYTES).digest()


def _refusal(field: str, problem: str, remedy: str) -> InvalidRequestError:
    return InvalidRequestError(field=field, problem=problem, remedy=remedy)


def _brief(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "of no known kind, or cut short"  # its own words name an object in memory
    return (str(error).splitlines() or [""])[0][:100] or type(error).__name__
