"""Embeddings that arrive from encode workers: reserved, attached, read, kept for the next prompt with the same image.

    reserve --> RESERVED --attach--> ARRIVED --take--> read by one sequence --close--> cached (LRU) --> evicted
                    `-- cancel_reservation --> free        `------ drop ------------------^

Blocks are shared by content: an image that is here already is not sent again. Named by the chained hash of the
image's own sequence, which starts from model, processor and tenant. Any thread may call it. No torch; never
decides who reads what: `prefill_worker/viewing.py` does.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sluice.domain.block_hash import hashes_of_blocks
from sluice.domain.ids import BlockHash, BlockId, SequenceId
from sluice.domain.kv import KvGeometry
from sluice.domain.sequence import SequenceState
from sluice.engine.block_pool import BlockPool
from sluice.engine.contract import BlockCounts, Reservation
from sluice.engine.embedding_memory import EmbeddingMemory
from sluice.errors import IllegalTransitionError, ReservationRefusedError


@dataclass(frozen=True, slots=True)
class _Held:
    blocks: tuple[BlockId, ...]
    is_arrived: bool


class EmbeddingStore:
    """The embeddings of one worker that reads them. free + cached + reserved + read = all, after any history."""

    def __init__(self, geometry: KvGeometry, memory: memoryview) -> None:
        """Over `memory`, exactly the region's size."""
        self.geometry = geometry
        self._memory = EmbeddingMemory(geometry, memory)
        self._pool = BlockPool(geometry.blocks)
        self._held: dict[SequenceId, _Held] = {}  # by the image's own sequence
        self._tables: list[tuple[BlockId, ...]] = []  # of those being read
        self._lock = threading.Lock()
        self._on_arrived: Callable[[SequenceState], None] = lambda _state: None

    def listen(self, on_arrived: Callable[[SequenceState], None]) -> None:
        """Set who hears of every image that has arrived, on the thread that attached it."""
        self._on_arrived = on_arrived

    def reserve(self, sequence: SequenceId, *, tokens: int, unit_hashes: Sequence[BlockHash]) -> Reservation:
        """Hold blocks for `tokens` embeddings. Raises ReservationRefusedError if there is no room."""
        with self._lock:
            if sequence in self._held:
                raise ReservationRefusedError(f"embeddings of sequence {sequence} are on their way already")
            shared = self._pool.find(hashes_of_blocks(unit_hashes, block_tokens=self.geometry.block_tokens))
            missing = self.geometry.blocks_for(tokens) - len(shared)
            if not self._pool.can_take(missing, beside=shared):
                what = f"{missing} blocks are needed and {self._pool.available_blocks} can be given"
                raise ReservationRefusedError(f"no room for the embeddings of sequence {sequence}: {what}")
            self._pool.share(shared)
            blocks = (*shared, *self._pool.take(missing))
            self._held[sequence] = _Held(blocks, is_arrived=False)
            cached_tokens = len(shared) * self.geometry.block_tokens
            return Reservation(sequence=sequence, blocks=blocks, cached_tokens=cached_tokens)

    def attach(self, state: SequenceState, *, computed: int) -> None:
        """The reserved image's first `computed` tokens are here: others may share them from now on.

        Raises IllegalTransitionError without a reservation.
        """
        with self._lock:
            held = self._find(state.sequence, event="attach", is_arrived=False)
            self._held[state.sequence] = _Held(held.blocks, is_arrived=True)
            hashes = hashes_of_blocks(state.unit_hashes, block_tokens=self.geometry.block_tokens)
            full = min(computed // self.geometry.block_tokens, len(hashes))
            for block, block_hash in zip(held.blocks[:full], hashes[:full], strict=True):
                self._pool.publish(block, block_hash)
        self._on_arrived(state)

    def cancel_reservation(self, sequence: SequenceId) -> None:
        """Give a reservation's blocks back. Only when no transfer can still write them."""
        with self._lock:
            held = self._find(sequence, event="cancel_reservation", is_arrived=False)
            del self._held[sequence]
            self._pool.drop(held.blocks)

    def take(self, sequence: SequenceId, *, tokens: int) -> "PagedRows":
        """The first `tokens` embeddings of an arrived image; the caller closes them."""
        with self._lock:
            held = self._find(sequence, event="take", is_arrived=True)
            del self._held[sequence]
            self._tables.append(held.blocks)
            return PagedRows(self, held.blocks, tokens)

    def drop(self, sequence: SequenceId) -> None:
        """Nobody will read an arrived image: it is only cached from now on. Others are ignored."""
        with self._lock:
            held = self._held.get(sequence)
            if held is not None and held.is_arrived:
                del self._held[sequence]
                self._pool.drop(held.blocks)

    def read(self, blocks: Sequence[BlockId], first: int, end: int) -> npt.NDArray[np.uint8]:
        """A copy of the embeddings of tokens [first, end) of a block table that is being read."""
        return self._memory.read(blocks, first, end)

    def give_back(self, blocks: tuple[BlockId, ...]) -> None:
        """A reader is done."""
        with self._lock:
            self._tables.remove(blocks)
            self._pool.drop(blocks)

    def blocks(self) -> BlockCounts:
        """Every block, by state: `held` has arrived and waits for its reader, `active` is being read."""
        with self._lock:
            reserved = {block for held in self._held.values() if not held.is_arrived for block in held.blocks}
            arrived = {block for held in self._held.values() if held.is_arrived for block in held.blocks} - reserved
            active = {block for table in self._tables for block in table} - reserved - arrived
            return BlockCounts(
                total=self._pool.blocks,
                free=self._pool.free_blocks,
                cached=self._pool.idle_blocks,
                active=len(active),
                held=len(arrived),
                reserved=len(reserved),
            )

    @property
    def reserved_tables(self) -> list[tuple[BlockId, ...]]:
        """Block tables that others may write to."""
        with self._lock:
            return [held.blocks for held in self._held.values() if not held.is_arrived]

    @property
    def read_tables(self) -> list[tuple[BlockId, ...]]:
        """Block tables that are read, or wait for their reader."""
        with self._lock:
            return [*self._tables, *(held.blocks for held in self._held.values() if held.is_arrived)]

    def check_integrity(self) -> None:
        """Assert that every block is accounted for."""
        with self._lock:
            self._pool.check_integrity([*(held.blocks for held in self._held.values()), *self._tables])

    def _find(self, sequence: SequenceId, *, event: str, is_arrived: bool) -> _Held:
        held = self._held.get(sequence)
        if held is None or held.is_arrived is not is_arrived:
            state = "UNKNOWN" if held is None else "ARRIVED" if held.is_arrived else "RESERVED"
            raise IllegalTransitionError(state=state, event=f"{event} of embeddings {sequence}")
        return held


class PagedRows:
    """The embeddings of one image in the store. Implements `contract.EmbeddingRows`."""

    __slots__ = ("_blocks", "_store", "_tokens")

    def __init__(self, store: EmbeddingStore, blocks: tuple[BlockId, ...], tokens: int) -> None:
        self._store = store
        self._blocks = blocks
        self._tokens = tokens

    @property
    def tokens(self) -> int:
        return self._tokens

    def rows(self, first: int, end: int) -> npt.NDArray[np.uint8]:
        return self._store.read(self._blocks, first, end)

    def close(self) -> None:
        self._store.give_back(self._blocks)
