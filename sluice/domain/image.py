"""Images inside a prompt: where their tokens stand, and how those tokens name the image.

An image token is no word of the vocabulary: in a prompt's token ids it is replaced by bits of the image's
digest. So block hashes, prefix caches and indexes tell prompts with different images apart, and find
equal ones, without knowing what an image is. Next: `engine/vision/` for what they become.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from sluice.domain.block_hash import HASH_BYTES, HASH_UNIT_TOKENS
from sluice.domain.ids import BlockHash

IMAGE_DIGEST_BYTES: Final = 16
IMAGE_TOKEN_FROM: Final = 1 << 31
"""Token ids from here on are image tokens. No vocabulary reaches this far."""

FILL_TOKEN: Final = 0
"""Follows an image's tokens in the image's own sequence."""

PART_TILES: Final = 4
"""Tiles of a picture that are encoded together. Real tiles are 64 to 169 embeddings: as few as one would be a
quarter fill, and as many handoffs as tiles; all would leave every encode worker but one with nothing to do."""

_WORD_BYTES: Final = 4
_WORDS: Final = IMAGE_DIGEST_BYTES // _WORD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpan:
    """Tokens [first, first + rows * columns) of a prompt stand for embeddings [offset, ...) of one image.

    `digest` names the embeddings: the picture's pixels, the processor's settings and the model.
    """

    digest: bytes
    first: int
    rows: int  # of the grid after merging patches; 1 where positions have one axis
    columns: int
    offset: int = 0  # an image cut into tiles has a span for each

    @property
    def tokens(self) -> int:
        """How many tokens it covers."""
        return self.rows * self.columns

    @property
    def end(self) -> int:
        """One past its last token."""
        return self.first + self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLayout:
    """What a vision tower will make of a picture, and how a prompt lays that out.

    A picture cut into tiles has `tile_rows` x `tile_columns` of them and one of the whole, with `tile_tokens`
    embeddings each, in this order; `tile_rows` is 0 for one that is not cut.
    """

    digest: bytes  # see ImageSpan
    tokens: int
    rows: int  # of the grid after merging patches; 1 where positions have one axis
    columns: int
    tile_rows: int = 0
    tile_columns: int = 0
    tile_tokens: int = 0

    @property
    def tiles(self) -> int:
        """How many tiles it is cut into, the one of the whole picture included; 1 where it is not cut."""
        return self.tokens // self.tile_tokens if self.tile_rows else 1


def tile_runs(layout: ImageLayout) -> list[tuple[int, int]]:
    """The tiles [first, end) of each part of a picture: what is encoded, cached and sent by itself.

    A tower sees every tile by itself, so they may go to several encode workers; a picture that is not cut is seen
    as a whole and is one part. Follows from the layout alone: equal pictures have equal parts everywhere.
    """
    return list(pairwise([*range(0, layout.tiles, PART_TILES), layout.tiles]))


def parts_of(layout: ImageLayout) -> tuple[ImageLayout, ...]:
    """The parts as images of their own, in order: each with a name of its own."""
    runs = tile_runs(layout)
    if len(runs) == 1:
        return (layout,)
    whole = replace(layout, tile_rows=0, tile_columns=0, tile_tokens=0)
    sizes = [(end - first) * layout.tile_tokens for first, end in runs]
    return tuple(
        replace(whole, digest=_part_digest(layout.digest, run), tokens=size, columns=size)
        for run, size in zip(runs, sizes, strict=True)
    )


def _part_digest(digest: bytes, run: tuple[int, int]) -> bytes:
    named = b"".join(tile.to_bytes(_WORD_BYTES, "little") for tile in run)
    return hashlib.blake2b(named, digest_size=IMAGE_DIGEST_BYTES, key=digest).digest()


def run_of(layout: ImageLayout, first: int) -> tuple[list[int], list[ImageSpan]]:
    """All tokens of an image, and where its parts stand, if they are laid out from token `first` of a prompt on."""
    tokens: list[int] = []
    spans: list[ImageSpan] = []
    for part in parts_of(layout):
        at = first + len(tokens)
        spans.append(ImageSpan(digest=part.digest, first=at, rows=part.rows, columns=part.columns))
        tokens += image_tokens(part.digest, part.tokens)
    return tokens, spans


def image_tokens(digest: bytes, count: int, *, offset: int = 0) -> list[int]:
    """The ids that stand for `count` tokens of an image, from its token `offset` on."""
    words = [
        int.from_bytes(digest[at : at + _WORD_BYTES], "little") for at in range(0, IMAGE_DIGEST_BYTES, _WORD_BYTES)
    ]
    return [IMAGE_TOKEN_FROM | words[(offset + index) % _WORDS] for index in range(count)]


def embedding_tokens(digest: bytes, count: int) -> tuple[int, ...]:
    """The tokens of an image's own sequence, whose KV is the image's `count` embeddings.

    Filled up to whole hash units, so that all of them can be found again in a prefix cache, and one token
    more: what is computed of a sequence that is cached.
    """
    return (*image_tokens(digest, count), *([FILL_TOKEN] * _fill(count)))


def _fill(count: int) -> int:
    return -count % HASH_UNIT_TOKENS + 1


def held_tokens(count: int) -> int:
    """How many tokens' room an image of `count` embeddings takes where it is read: whole hash units."""
    return count + _fill(count) + HASH_UNIT_TOKENS - 1  # the one token more begins another unit


def embedding_root(root: BlockHash) -> BlockHash:
    """Where the hash chains of images' own sequences start for the tenant whose prompts start from `root`."""
    return BlockHash(hashlib.blake2b(b"embeddings", digest_size=HASH_BYTES, key=root).digest())


def rope_delta(spans: Sequence[ImageSpan]) -> int:
    """What a token after all spans adds to its index to have its position on every axis of M-RoPE.

    An image of rows x columns advances positions by the longer of the two only (Qwen2-VL, arXiv 2409.12191).
    """
    return sum(max(span.rows, span.columns) - span.tokens for span in spans)
