"""Which worker holds which prefix: block hashes to workers, and the longest match of a prompt.

Fed by the workers' own events and, at placement, by expectation: a prompt sent to a worker
will soon be cached there. Expectations that no event confirms lapse. A hint, never a promise:
a worker that lost a prefix only computes it again. Bounded; when full, the oldest entries go.

A worker whose blocks hold k hash units reports every k-th unit hash (domain/block_hash.py), so
positions k-1, 2k-1, ... are looked up for it. Workers evict the ends of prefixes first, so who
holds a hash is taken to hold all before it: the search jumps ahead and narrows down.
Next: `policy.py`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from sluice.domain.block_hash import HASH_UNIT_TOKENS
from sluice.domain.ids import BlockHash

JUMP_BLOCKS: Final = 32


class PrefixIndex:
    """Prefix knowledge of all connected workers, by slot number. One owner; not thread-safe."""

    def __init__(self, *, entries_max: int = 1_000_000, expectation_s: float = 30.0) -> None:
        assert entries_max > 0
        self._entries_max = entries_max
        self._expectation_s = expectation_s
        self._holders: OrderedDict[BlockHash, int] = OrderedDict()  # a bit per slot
        self._steps: dict[int, int] = {}  # slot -> hash units per block
        self._masks: dict[int, int] = {}  # hash units per block -> slots with such blocks
        self._expected: OrderedDict[tuple[int, BlockHash], float] = OrderedDict()  # -> when it lapses, s

    def __len__(self) -> int:
        return len(self._holders)

    def add_worker(self, slot: int, *, block_tokens: int) -> None:
        """A worker with no known prefixes now has this slot."""
        assert slot not in self._steps, "a slot is freed before it is used again"
        step = block_tokens // HASH_UNIT_TOKENS
        self._steps[slot] = step
        self._masks[step] = self._masks.get(step, 0) | 1 << slot

    def remove_worker(self, slot: int) -> None:
        """Forget everything about a slot. Unknown slots are ignored."""
        step = self._steps.pop(slot, None)
        if step is None:
            return
        self._masks[step] &= ~(1 << slot)
        if not self._masks[step]:
            del self._masks[step]
        self._forget(slot)

    def stored(self, slot: int, hashes: Iterable[BlockHash]) -> None:
        """The worker reports blocks it now holds."""
        bit = 1 << slot
        for block in hashes:
            self._holders[block] = self._holders.get(block, 0) | bit
            self._expected.pop((slot, block), None)
        self._trim()

    def removed(self, slot: int, hashes: Iterable[BlockHash]) -> None:
        """The worker reports blocks it evicted."""
        for block in hashes:
            self._expected.pop((slot, block), None)
            self._drop(slot, block)

    def reset(self, slot: int) -> None:
        """The worker's cache is empty, or its report starts over."""
        self._forget(slot)

    def expect(self, slot: int, unit_hashes: Sequence[BlockHash], *, now_s: float) -> None:
        """A prompt was sent to a worker: it will hold these unit hashes' blocks soon."""
        bit, step = 1 << slot, self._steps[slot]
        lapses_s = now_s + self._expectation_s
        holders, expected = self._holders, self._expected
        for block in unit_hashes[step - 1 :: step]:
            mask = holders.get(block, 0)
            if not mask & bit:
                holders[block] = mask | bit
                expected[slot, block] = lapses_s
        self._trim()

    def expire(self, *, now_s: float) -> None:
        """Drop expectations that were not confirmed in time."""
        while self._expected:
            (slot, block), lapses_s = next(iter(self._expected.items()))
            if lapses_s > now_s:
                return
            del self._expected[slot, block]
            self._drop(slot, block)

    def match(self, unit_hashes: Sequence[BlockHash]) -> dict[int, int]:
        """Prompt tokens each worker holds already: slot to tokens. Workers without any are left out."""
        matched: dict[int, int] = {}
        for step, mask in self._masks.items():
            blocks = unit_hashes if step == 1 else unit_hashes[step - 1 :: step]
            self._match_blocks(blocks, mask, step * HASH_UNIT_TOKENS, matched)
        return matched

    def _match_blocks(
        self, blocks: Sequence[BlockHash], alive: int, block_tokens: int, matched: dict[int, int]
    ) -> None:
        holders, position = self._holders, 0
        while alive and position < len(blocks):
            still = holders.get(blocks[position], 0) & alive
            if still != alive:
                _record(alive & ~still, position * block_tokens, matched)
                alive = still
                continue
            # Everyone alive holds this block: those who hold a far one too hold all between.
            ahead = min(position + JUMP_BLOCKS, len(blocks))
            is_held_ahead = holders.get(blocks[ahead - 1], 0) & alive == alive
            position = ahead if is_held_ahead else position + 1
        _record(alive, position * block_tokens, matched)

    def _forget(self, slot: int) -> None:
        bit = 1 << slot
        for block in [block for block, mask in self._holders.items() if mask & bit]:
            self._drop(slot, block)
        for key in [key for key in self._expected if key[0] == slot]:
            del self._expected[key]

    def _drop(self, slot: int, block: BlockHash) -> None:
        mask = self._holders.get(block, 0) & ~(1 << slot)
        if mask:
            self._holders[block] = mask
        else:
            self._holders.pop(block, None)

    def _trim(self) -> None:
        while len(self._holders) > self._entries_max:
            self._holders.popitem(last=False)
        while len(self._expected) > self._entries_max:
            self._expected.popitem(last=False)


def _record(slots: int, tokens: int, matched: dict[int, int]) -> None:
    while tokens and slots:
        lowest = slots & -slots
        matched[lowest.bit_length() - 1] = tokens
        slots ^= lowest
