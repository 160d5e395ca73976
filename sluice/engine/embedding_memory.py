"""Embeddings of images in a paged region, laid out as the KV of a pool is: so everything that moves KV moves them.

    one image token  ->  one token of KV     levels (deepstack) -> layers     halves of hidden -> K and V

All levels are one layer group, for a tower gives them together. No torch, no decisions: who owns which block is
`embedding_store.py`'s where they arrive, the engine's scheduler's where they are made.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from sluice.domain.ids import BlockId
from sluice.domain.kv import K_AND_V, KvGeometry
from sluice.errors import ConfigError, ModelLoadError

Bytes = npt.NDArray[np.uint8]
BLOCK_TOKENS: Final = 16


def embedding_geometry(
    *, levels: int, hidden: int, dtype: str, dtype_bytes: int, memory_bytes: int, block_tokens: int = BLOCK_TOKENS
) -> KvGeometry:
    """A pool of embeddings in `memory_bytes`.

    Raises ConfigError if not one block fits, ModelLoadError for an odd hidden size.
    """
    if hidden % K_AND_V:
        raise ModelLoadError(f"hidden_size: is {hidden}; embeddings are moved in two halves, use an even one")
    block_bytes = levels * hidden * dtype_bytes * block_tokens
    blocks = memory_bytes // block_bytes
    if blocks < 1:
        raise ConfigError(f"embeddings_mib: one block needs {block_bytes} bytes; give more memory")
    return KvGeometry(
        layers=levels,
        group_layers=levels,
        heads=1,
        head_dim=hidden // K_AND_V,
        block_tokens=block_tokens,
        blocks=blocks,
        dtype=dtype,
        dtype_bytes=dtype_bytes,
    )


class EmbeddingMemory:
    """Reads and writes rows of embeddings, [tokens, levels * hidden * item] bytes, in a pool's region."""

    def __init__(self, geometry: KvGeometry, memory: memoryview) -> None:
        """Over `memory`, exactly the region's size."""
        assert geometry.groups == 1, "embeddings are one layer group"
        half = geometry.head_dim * geometry.dtype_bytes
        shape = (geometry.blocks, geometry.layers, K_AND_V, geometry.block_tokens, half)
        self._cells: Bytes = np.frombuffer(memory, dtype=np.uint8).reshape(shape)
        self._geometry = geometry

    @property
    def address(self) -> int:
        """Where the region starts."""
        return int(self._cells.ctypes.data)

    def write(self, blocks: Sequence[BlockId], first: int, rows: Bytes) -> None:
        """Put `rows` at tokens [first, first + len(rows)) of a block table."""
        _, levels, halves, _, half = self._cells.shape
        table, offsets = self._places(blocks, first, first + len(rows))
        self._cells[table, :, :, offsets] = rows.reshape(len(rows), levels, halves, half)

    def read(self, blocks: Sequence[BlockId], first: int, end: int) -> Bytes:
        """A copy of tokens [first, end) of a block table."""
        table, offsets = self._places(blocks, first, end)
        return self._cells[table, :, :, offsets].reshape(end - first, -1)

    def scrub(self, blocks: Sequence[BlockId]) -> None:
        """Zero `blocks`."""
        self._cells[list(blocks)] = 0

    def _places(
        self, blocks: Sequence[BlockId], first: int, end: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        positions = np.arange(first, end)
        size = self._geometry.block_tokens
        return np.asarray(blocks, dtype=np.int64)[positions // size], positions % size
