"""Draws a picture in a terminal: two pixels a character, one the upper half of a block, one behind it.

For files that Sluice ships; pictures of strangers are decoded elsewhere (`engine/vision/picture.py`).
"""

import io
from typing import Final

from PIL import Image
from rich.style import Style
from rich.text import Text

UPPER_HALF: Final = "▀"


def half_blocks(data: bytes, *, columns: int) -> Text:
    """The image file as lines of `columns` characters; a terminal's cell is about twice as high as wide."""
    with Image.open(io.BytesIO(data)) as image:
        rows = max(1, round(columns * image.height / image.width / 2))
        small = image.convert("RGB").resize((columns, 2 * rows), Image.Resampling.BOX)
    pixels = small.tobytes()
    text = Text(no_wrap=True)
    for row in range(rows):
        for column in range(columns):
            above, below = (_colour(pixels, (2 * row + half) * columns + column) for half in (0, 1))
            text.append(UPPER_HALF, Style.parse(f"{above} on {below}"))
        text.append("\n" if row < rows - 1 else "")
    return text


def _colour(pixels: bytes, index: int) -> str:
    return "#" + pixels[3 * index : 3 * index + 3].hex()
