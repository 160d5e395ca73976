"""Placeholders become image tokens as each family's own processor lays them out."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from sluice.domain.image import ImageLayout, ImageSpan, image_tokens, parts_of, run_of, tile_runs
from sluice.errors import InvalidRequestError
from sluice.text.vision_text import TileMarks, VisionText

IMAGE = 190
DIGEST = bytes(range(16))
WORDS = ["<fake_token_around_image>", "<global-img>", "<image>", "\n", "\n\n"]
WORDS += [f"<row_{row}_col_{column}>" for row, column in itertools.product(range(1, 7), repeat=2)]
IDS = {word: 1000 + number for number, word in enumerate(WORDS)} | {"<image>": IMAGE}


def marks() -> TileMarks:
    return tile_marks(4)


def tile_marks(sides: int) -> TileMarks:
    tiles = {(r, c): IDS[f"<row_{r}_col_{c}>"] for r, c in itertools.product(range(1, sides + 1), repeat=2)}
    fake, whole = IDS["<fake_token_around_image>"], IDS["<global-img>"]
    return TileMarks(fake=fake, whole=whole, tiles=tiles, row_end=(IDS["\n"],), gap=(IDS["\n\n"],))


def tiled(rows: int, columns: int, *, size: int) -> ImageLayout:
    tokens = (rows * columns + 1) * size
    sizes = {"tile_rows": rows, "tile_columns": columns, "tile_tokens": size}
    return ImageLayout(digest=DIGEST, tokens=tokens, rows=1, columns=tokens, **sizes)


class _Texts:
    """What transformers' own method needs of its processor."""

    fake_image_token, global_image_tag, image_token = WORDS[:3]
    image_seq_len = 4


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 2), (2, 1), (3, 4), (4, 4)])
def test_tiles_are_named_as_transformers_names_them(rows: int, columns: int) -> None:
    sizes = {"rows": [[rows]], "cols": [[columns]]}
    text = Idefics3Processor.replace_image_token(_Texts(), sizes, 0)  # type: ignore[arg-type]
    expected: list[int] = []
    while text:
        word = next(word for word in sorted(WORDS, key=len, reverse=True) if text.startswith(word))
        expected.append(IDS[word])
        text = text.removeprefix(word)
    layout = tiled(rows, columns, size=4)
    tokens, spans = VisionText(IMAGE, "<image>", marks()).lay_out([5, IMAGE, 6], [layout], field="prompt")
    named = [IMAGE if token >= 1 << 31 else token for token in tokens]
    assert named == [5, *expected, 6]
    shown = [token for span in spans for token in tokens[span.first : span.end]]
    assert shown == run_of(layout, 0)[0], "tile after tile, the picture as a whole last"


def test_a_whole_picture_is_a_run_of_its_tokens() -> None:
    layout = ImageLayout(digest=DIGEST, tokens=6, rows=2, columns=3, tile_tokens=6)
    tokens, spans = VisionText(IMAGE, "<image>", None).lay_out([IMAGE, 8, IMAGE], [layout, layout], field="prompt")
    run = image_tokens(DIGEST, 6)
    assert tokens == (*run, 8, *run)
    assert spans == tuple(ImageSpan(digest=DIGEST, first=first, rows=2, columns=3) for first in (0, 7))


@pytest.mark.parametrize("places", [0, 1, 3])
def test_as_many_places_as_pictures_are_needed(places: int) -> None:
    layout = ImageLayout(digest=DIGEST, tokens=6, rows=2, columns=3)
    with pytest.raises(InvalidRequestError, match=f"has {places} places for 2 pictures; write <image>"):
        VisionText(IMAGE, "<image>", None).lay_out([4] + [IMAGE] * places, [layout] * 2, field="prompt")


@given(rows=st.integers(0, 6), columns=st.integers(1, 6), size=st.integers(1, 9))
def test_the_parts_of_a_picture_are_all_its_tiles_in_order_each_by_a_name_of_its_own(
    rows: int, columns: int, size: int
) -> None:
    layout = tiled(rows, columns if rows else 0, size=size)
    parts, runs = parts_of(layout), tile_runs(layout)
    assert [tile for first, end in runs for tile in range(first, end)] == list(range(layout.tiles))
    assert [part.tokens for part in parts] == [(end - first) * size for first, end in runs]
    assert len({part.digest for part in parts}) == len(parts)
    assert all(parts_of(part) == (part,) for part in parts)
    marked = VisionText(IMAGE, "<image>", tile_marks(6)).lay_out([IMAGE], [layout], field="prompt")
    for tokens, spans in (marked, (run_of(layout, 0))):
        for part in parts:
            mine = [span for span in spans if span.digest == part.digest]
            assert [offset for span in mine for offset in range(span.offset, span.offset + span.tokens)] == list(
                range(part.tokens)
            )
            told = [token for span in mine for token in tokens[span.first : span.end]]
            assert told == image_tokens(part.digest, part.tokens)


def test_a_picture_that_its_tower_sees_as_a_whole_is_one_part() -> None:
    whole = ImageLayout(digest=DIGEST, tokens=400, rows=20, columns=20, tile_tokens=400)
    assert parts_of(whole) == (whole,)
