"""Who may use which KV block: free list, reference counts, and the prefix cache's idle blocks.

Decides which block is handed out next: a free one if there is one, else the cached block
unused for longest. Never knows sequences, tokens or tensors; `scheduler.py` asks, `kv_cache.py`
has the memory. Every block is in exactly one place:

    free --take--> referenced --drop, no hash--> free
                       ^  `--drop, hashed--> idle (cached) --evicted by take--> referenced
                       `------share--------------'
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from sluice.domain.ids import BlockHash, BlockId
from sluice.engine.contract import PrefixChange
from sluice.engine.prefix_cache import PrefixCache


class BlockPool:
    """All blocks of one worker. After any history free + idle + referenced = all."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._references = [0] * blocks
        # Last in, first out: a block just freed is likely to be in the processor's cache.
        self._free = [BlockId(index) for index in reversed(range(blocks))]
        self._cache = PrefixCache()

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return self._blocks

    @property
    def free_blocks(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def idle_blocks(self) -> int:
        """Blocks that hold a cached prefix nobody references."""
        return self._cache.idle_blocks

    @property
    def available_blocks(self) -> int:
        """Blocks that take() could hand out."""
        return len(self._free) + self._cache.idle_blocks

    def find(self, hashes: Sequence[BlockHash]) -> list[BlockId]:
        """Blocks of the longest cached prefix; share() them before anything else is taken."""
        return self._cache.find(hashes)

    def can_take(self, count: int, *, beside: Sequence[BlockId]) -> bool:
        """Whether `count` blocks could be taken after sharing the blocks `beside`."""
        idle = sum(self._cache.is_idle(block) for block in beside)
        return count <= self.available_blocks - idle

    def take(self, count: int) -> list[BlockId]:
        """`count` blocks with one reference each; the caller owns them until drop()."""
        assert count <= self.available_blocks, "ask can_take() first"
        taken = [self._free.pop() if self._free else self._cache.evict() for _ in range(count)]
        for block in taken:
            self._references[block] = 1
        return taken

    def share(self, blocks: Sequence[BlockId]) -> None:
        """One more reference to each of `blocks`, which find() returned."""
        for block in blocks:
            if self._references[block] == 0:
                self._cache.set_busy(block)
            self._references[block] += 1

    def drop(self, blocks: Sequence[BlockId]) -> list[BlockId]:
        """Give up one reference to each block of a block table; returns those now holding nothing.

        The end of the table is evicted before its start, because a prefix is only of use whole.
        """
        freed: list[BlockId] = []
        for block in reversed(blocks):
            assert self._references[block] > 0, f"block {block} was dropped more often than taken"
            self._references[block] -= 1
            if self._references[block] > 0:
                continue
            if self._cache.has(block):
                self._cache.set_idle(block)
            else:
                self._free.append(block)
                freed.append(block)
        return freed

    def is_private(self, block: BlockId) -> bool:
        """Whether exactly one block table names `block`."""
        return self._references[block] == 1

    def publish(self, block: BlockId, block_hash: BlockHash) -> None:
        """The referenced `block` now holds the whole prefix `block_hash`: others may share it."""
        assert self._references[block] > 0, "only an owner knows what a block holds"
        self._cache.store(block, block_hash)

    def unpublish(self, blocks: Sequence[BlockId]) -> None:
        """Nobody new may share these referenced blocks: what they hold is wrong."""
        for block in blocks:
            assert self._references[block] > 0, "only an owner knows what a block holds"
            self._cache.discard(block)

    def take_prefix_change(self) -> PrefixChange:
        """Prefix-cache changes since the last call."""
        return self._cache.take_change()

    def check_integrity(self, tables: Iterable[Sequence[BlockId]]) -> None:
        """Assert that `tables`, all block tables there are, explain every reference and block."""
        expected = Counter(block for table in tables for block in table)
        actual = Counter({BlockId(block): count for block, count in enumerate(self._references) if count})
        assert expected == actual, "references and block tables differ"
        assert len(set(self._free)) == len(self._free), "a block is free twice"
        assert not any(self._references[block] for block in self._free), "a free block is referenced"
        total = len(self._free) + self._cache.idle_blocks + len(actual)
        assert total == self._blocks, f"{self._blocks - total} of {self._blocks} blocks are lost"
