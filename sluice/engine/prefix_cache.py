"""Which blocks hold a prefix that can be used again: the index from chain hash to block.

Decides what is found, what is evicted first (the block unused for longest) and what changed
since the router last heard. Never counts references and never hands blocks out: that is
`block_pool.py`, its only user. Tokens and models are unknown here; a hash names a whole
prefix (`domain/block_hash.py`), so equal hashes mean equal KV.
"""

from collections import OrderedDict
from collections.abc import Sequence

from sluice.domain.ids import BlockHash, BlockId
from sluice.engine.contract import PrefixChange


class PrefixCache:
    """Blocks by the hash of the prefix they end. One block has at most one hash, and the reverse."""

    def __init__(self) -> None:
        self._block_of: dict[BlockHash, BlockId] = {}
        self._hash_of: dict[BlockId, BlockHash] = {}
        self._idle: OrderedDict[BlockId, None] = OrderedDict()
        # Dictionaries serve as ordered sets. Neither can outgrow the pool: a hash that is
        # stored and removed (or the reverse) between two reports cancels out.
        self._stored: dict[BlockHash, None] = {}
        self._removed: dict[BlockHash, None] = {}

    @property
    def idle_blocks(self) -> int:
        """Cached blocks that nobody references: they can be evicted."""
        return len(self._idle)

    def is_idle(self, block: BlockId) -> bool:
        """Whether `block` is cached and unreferenced."""
        return block in self._idle

    def has(self, block: BlockId) -> bool:
        """Whether `block` has a hash."""
        return block in self._hash_of

    def find(self, hashes: Sequence[BlockHash]) -> list[BlockId]:
        """Blocks of the longest cached prefix of `hashes`, in order."""
        found: list[BlockId] = []
        for block_hash in hashes:
            block = self._block_of.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def store(self, block: BlockId, block_hash: BlockHash) -> None:
        """Make a referenced block findable. A hash that is known already keeps its first block."""
        if block_hash in self._block_of or block in self._hash_of:
            return
        self._block_of[block_hash] = block
        self._hash_of[block] = block_hash
        if block_hash in self._removed:
            del self._removed[block_hash]
        else:
            self._stored[block_hash] = None

    def set_idle(self, block: BlockId) -> None:
        """The last reference to a cached block went away: it is now the last to be evicted."""
        assert block in self._hash_of, "only cached blocks wait for eviction"
        self._idle[block] = None

    def set_busy(self, block: BlockId) -> None:
        """A cached block is referenced again and cannot be evicted."""
        self._idle.pop(block, None)

    def evict(self) -> BlockId:
        """Forget the block unused for longest and return it. There must be an idle one."""
        block, _ = self._idle.popitem(last=False)
        self._forget(block)
        return block

    def discard(self, block: BlockId) -> None:
        """Forget `block`: what it holds is not to be used again."""
        if block in self._hash_of:
            self._idle.pop(block, None)
            self._forget(block)

    def _forget(self, block: BlockId) -> None:
        block_hash = self._hash_of.pop(block)
        del self._block_of[block_hash]
        if block_hash in self._stored:
            del self._stored[block_hash]
        else:
            self._removed[block_hash] = None

    def take_change(self) -> PrefixChange:
        """What can be hit now and could not at the last call, and the reverse."""
        change = PrefixChange(stored=tuple(self._stored), removed=tuple(self._removed))
        self._stored.clear()
        self._removed.clear()
        return change
