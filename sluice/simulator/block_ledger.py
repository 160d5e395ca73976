"""How many KV blocks of one instance are in use, and which prefixes its cache holds.

Counts blocks instead of naming them: the laws are those of `engine/block_pool.py` (free, referenced
or cached and idle; the idle ones unused for longest are evicted first, the end of a prefix before
its start), but a hash id stands for `unit_tokens / block_tokens` blocks at once, as public traces
hash 512 tokens. Never knows sequences. Next: `instance.py`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence


class BlockLedger:
    """Blocks of one instance. free + idle + referenced = all."""

    def __init__(self, blocks: int, *, unit_blocks: int = 1) -> None:
        assert blocks > 0
        assert unit_blocks > 0
        self.blocks = blocks
        self.unit_blocks = unit_blocks  # that one hash id stands for
        self.free = blocks  # holding nothing
        self.life = 0  # grows with clear(): block tables of an earlier life name nothing
        self._references: dict[int, int] = {}  # hash id -> sequences that share it; 0 where idle
        self._idle: OrderedDict[int, None] = OrderedDict()
        self.on_change: Callable[[int, bool], None] | None = None  # told of every id that comes (True) or goes

    @property
    def available(self) -> int:
        """Blocks that take() could hand out."""
        return self.free + len(self._idle) * self.unit_blocks

    def find(self, ids: Sequence[int]) -> int:
        """How many leading ids are cached."""
        references = self._references
        for count, hash_id in enumerate(ids):
            if hash_id not in references:
                return count
        return len(ids)

    def has(self, hash_id: int) -> bool:
        """Whether `hash_id` can be hit."""
        return hash_id in self._references

    def can_take(self, count: int, *, beside: Sequence[int]) -> bool:
        """Whether `count` blocks could be taken after sharing the cached ids `beside`."""
        if count <= self.free:
            return True
        idle = sum(hash_id in self._idle for hash_id in beside)
        return count <= self.available - idle * self.unit_blocks

    def take(self, count: int) -> None:
        """Reference `count` blocks; evicts if too few are free."""
        self.free -= count
        while self.free < 0:
            hash_id, _ = self._idle.popitem(last=False)
            del self._references[hash_id]
            self.free += self.unit_blocks
            self._tell(hash_id, is_stored=False)

    def share(self, ids: Sequence[int]) -> None:
        """One more reference to each cached id."""
        for hash_id in ids:
            references = self._references[hash_id]
            if references == 0:
                del self._idle[hash_id]
            self._references[hash_id] = references + 1

    def publish(self, hash_id: int) -> bool:
        """Blocks a sequence has taken now hold this id: True, or False if another's do already."""
        if hash_id in self._references:
            return False
        self._references[hash_id] = 1
        self._tell(hash_id, is_stored=True)
        return True

    def drop(self, ids: Sequence[int], *, private: int) -> None:
        """Give up one reference to each id, last first, and `private` blocks that no id names."""
        self.free += private
        for hash_id in reversed(ids):
            references = self._references[hash_id] - 1
            self._references[hash_id] = references
            if references == 0:
                self._idle[hash_id] = None

    def clear(self) -> None:
        """The instance is gone: everything is free, and what tables say of it is void."""
        self.life += 1
        for hash_id in list(self._references):
            self._tell(hash_id, is_stored=False)
        self._references.clear()
        self._idle.clear()
        self.free = self.blocks

    def _tell(self, hash_id: int, *, is_stored: bool) -> None:
        if self.on_change is not None:
            self.on_change(hash_id, is_stored)
