"""Pools that others write to, as the checkers ask about them: what is reserved, and who reads what.

Next: `checkers.py`.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from sluice.domain.ids import BlockId
from sluice.domain.kv import KvGeometry
from sluice.engine.embedding_store import EmbeddingStore
from sluice.engine.engine import PagedEngine


class Receiving(Protocol):
    """One pool."""

    @property
    def geometry(self) -> KvGeometry:
        """How it is laid out."""
        ...

    def reserved(self) -> list[set[BlockId]]:
        """The blocks of each reservation."""
        ...

    def readers(self, blocks: AbstractSet[BlockId]) -> Sequence[object]:
        """Who reads any of these blocks, or will."""
        ...


class ReceivingEngine:
    """An engine's KV pool."""

    def __init__(self, engine: PagedEngine) -> None:
        self._engine = engine

    @property
    def geometry(self) -> KvGeometry:
        return self._engine.geometry

    def reserved(self) -> list[set[BlockId]]:
        return [set(table) for table in self._engine.handover.block_tables]

    def readers(self, blocks: AbstractSet[BlockId]) -> Sequence[object]:
        return [one.sequence for one in self._engine.scheduler.sequences if blocks & set(one.blocks)]


class ReceivingStore:
    """A store of embeddings."""

    def __init__(self, store: EmbeddingStore) -> None:
        self._store = store

    @property
    def geometry(self) -> KvGeometry:
        return self._store.geometry

    def reserved(self) -> list[set[BlockId]]:
        return [set(table) for table in self._store.reserved_tables]

    def readers(self, blocks: AbstractSet[BlockId]) -> Sequence[object]:
        return [table for table in self._store.read_tables if blocks & set(table)]
