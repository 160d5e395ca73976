"""How a prompt names pictures: one placeholder each, opened up into as many image tokens as the tower makes.

    text <image> text  ->  t t <fake> <row_1_col_1> i i i <fake> <row_1_col_2> i i i ... <global-img> i i i <fake> t t

Most families replace the placeholder by a run of tokens; those that cut pictures into tiles name each tile
(transformers, processing_idefics3.py). Pure but for `load`; no torch. Next: `domain/image.py` for the tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from sluice.domain.image import ImageLayout, ImageSpan, image_tokens, parts_of, run_of, tile_runs
from sluice.errors import InvalidRequestError
from sluice.text.model_files import read_json

TILE_SIDE_MAX: Final = 32
_FAKE: Final = "<fake_token_around_image>"
_GLOBAL: Final = "<global-img>"

TokenOf: TypeAlias = Callable[[str], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TileMarks:
    """Tokens that name the tiles of a picture, where a tokenizer has them."""

    fake: int  # before every tile, and after the last
    whole: int  # the picture as a whole
    tiles: Mapping[tuple[int, int], int]  # by row and column, from 1
    row_end: tuple[int, ...]  # after the last tile of a row
    gap: tuple[int, ...]  # before the picture as a whole


@dataclass(frozen=True, slots=True)
class VisionText:
    """What stands for pictures in one model's prompts."""

    placeholder: int
    placeholder_text: str
    marks: TileMarks | None

    def lay_out(
        self, tokens: Sequence[int], layouts: Sequence[ImageLayout], *, field: str
    ) -> tuple[tuple[int, ...], tuple[ImageSpan, ...]]:
        """The prompt with each placeholder opened up for its picture, and where the pictures' tokens are.

        Raises InvalidRequestError naming `field` unless there are as many placeholders as pictures.
        """
        found = sum(token == self.placeholder for token in tokens)
        if found != len(layouts):
            problem = f"has {found} places for {len(layouts)} pictures"
            remedy = f"write {self.placeholder_text} (token {self.placeholder}) where each picture goes, nowhere else"
            raise InvalidRequestError(field=field, problem=problem, remedy=remedy)
        prompt: list[int] = []
        spans: list[ImageSpan] = []
        following = iter(layouts)
        for token in tokens:
            if token == self.placeholder:
                self._open_up(next(following), prompt, spans)
            else:
                prompt.append(token)
        return tuple(prompt), tuple(spans)

    def _open_up(self, layout: ImageLayout, prompt: list[int], spans: list[ImageSpan]) -> None:
        if self.marks is None or not layout.tile_tokens or layout.tile_rows > TILE_SIDE_MAX:
            tokens, found = run_of(layout, len(prompt))
            prompt += tokens
            spans += found
            return
        tiles = _tile_spans(layout)
        for row in range(1, layout.tile_rows + 1):
            for column in range(1, layout.tile_columns + 1):
                prompt += [self.marks.fake, self.marks.tiles[row, column]]
                _append(next(tiles), prompt, spans)
            prompt += self.marks.row_end if row < layout.tile_rows else self.marks.gap
        prompt += [self.marks.fake, self.marks.whole]
        _append(next(tiles), prompt, spans)
        prompt.append(self.marks.fake)


def load(
    directory: Path, *, token_of: TokenOf, text_of: Callable[[int], str | None], encode: Callable[[str], Sequence[int]]
) -> VisionText | None:
    """What the model in `directory` says of pictures; None for one that reads text alone. Raises ModelLoadError."""
    config = read_json(directory / "config.json")
    placeholder = config.get("image_token_id", config.get("image_token_index"))
    if "vision_config" not in config or not isinstance(placeholder, int):
        return None
    return VisionText(placeholder, text_of(placeholder) or "", _marks(token_of, encode))


def _marks(token_of: TokenOf, encode: Callable[[str], Sequence[int]]) -> TileMarks | None:
    fake, whole = token_of(_FAKE), token_of(_GLOBAL)
    if fake is None or whole is None:
        return None
    sides = range(1, TILE_SIDE_MAX + 1)
    named = {(row, column): token_of(f"<row_{row}_col_{column}>") for row in sides for column in sides}
    tiles = {place: token for place, token in named.items() if token is not None}
    # The last row's end and the empty line before the whole picture are two line ends together.
    return TileMarks(fake=fake, whole=whole, tiles=tiles, row_end=tuple(encode("\n")), gap=tuple(encode("\n\n")))


def _tile_spans(layout: ImageLayout) -> Iterator[ImageSpan]:
    """A span for each tile, of the part that it is in; where it stands is still to be said."""
    for part, (first, end) in zip(parts_of(layout), tile_runs(layout), strict=True):
        for tile in range(end - first):
            offset = tile * layout.tile_tokens
            yield ImageSpan(digest=part.digest, first=0, rows=1, columns=layout.tile_tokens, offset=offset)


def _append(span: ImageSpan, prompt: list[int], spans: list[ImageSpan]) -> None:
    spans.append(replace(span, first=len(prompt)))
    prompt += image_tokens(span.digest, span.tokens, offset=span.offset)
