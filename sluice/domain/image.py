"""Images inside a prompt: where their tokens stand, and how those tokens name the image.

An image token is no word of the vocabulary: in a prompt's token ids it is replaced by bits of the image's
digest. So block hashes, prefix caches and indexes tell prompts with different images apart, and find
equal ones, without knowing what an image is. Next: `engine/vision/` for what they become.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sluice.domain.block_hash import HASH_BYTES, HASH_UNIT_TOKENS
from sluice.domain.ids import BlockHash

IMAGE_DIGEST_BYTES: Final = 16
IMAGE_TOKEN_FROM: Final = 1 << 31
"""Token ids from here on are image tokens. No vocabulary reaches this far."""

FILL_TOKEN: Final = 0
"""Follows an image's tokens in the image's own sequence."""

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
