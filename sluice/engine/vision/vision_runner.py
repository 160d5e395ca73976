"""Runs steps of an encode worker: an image is a sequence, its embeddings are its KV, the tower fills them in.

So scheduling, prefix cache, handoff and conservation are the engine's own. Images of different requests that
start in one step share a forward pass; one that is larger than a step's budget is encoded whole at its first
chunk and written chunk by chunk. What is not an image's token (fill, the canary) has zeros. Implements
`runner.ModelRunner`. No torch. Next: `encoder.py`, the tower; `prepared_store.py`.
"""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from sluice.clock import Clock, SystemClock
from sluice.domain.ids import BlockHash, BlockId
from sluice.domain.image import FILL_TOKEN
from sluice.engine.contract import GroupListener, KvSpan, ModelFacts, always_ready
from sluice.engine.embedding_memory import EmbeddingMemory
from sluice.engine.runner import Choice, Sampled
from sluice.engine.sequence import LiveSequence
from sluice.engine.step_plan import StepPlan, Work
from sluice.engine.vision.prepared_store import PreparedStore, Sized

Bytes = npt.NDArray[np.uint8]
OnEncoded = Callable[[int, int, float], None]
GONE = "the picture is not here any more; send it again"


P = TypeVar("P", bound=Sized)
T_contra = TypeVar("T_contra", bound=Sized, contravariant=True)


class Tower(Protocol[T_contra]):
    """What makes embeddings of prepared images."""

    def rows(self, images: Sequence[T_contra]) -> list[Bytes]:
        """Those of each image, [tokens, levels * hidden * item] bytes."""
        ...


class Written:
    """The fence of embeddings that are in main memory already."""

    def wait(self) -> None:
        """Return at once."""


class VisionRunner(Generic[P]):
    """One vision tower over one pool of embeddings."""

    def __init__(
        self,
        facts: ModelFacts,
        tower: Tower[P],
        memory: EmbeddingMemory,
        prepared: PreparedStore[P],
        *,
        clock: Clock | None = None,
    ) -> None:
        self.facts = facts
        self._tower = tower
        self._memory = memory
        self._prepared = prepared
        self._on_encoded: OnEncoded = lambda _images, _tokens, _seconds: None
        self._clock = clock or SystemClock()
        self._rows: dict[LiveSequence, Bytes] = {}  # of images that are written over several steps

    def listen(self, on_encoded: OnEncoded) -> None:
        """Set who hears, on the engine's thread, of every forward pass: images, embeddings, seconds."""
        self._on_encoded = on_encoded

    @property
    def kv_address(self) -> int:
        return self._memory.address

    @property
    def kv_device(self) -> str:
        return "cpu"

    def run(self, plan: StepPlan, listener: GroupListener | None) -> Sequence[Sampled]:
        works = (*plan.decodes, *plan.prefills)
        sizes = [_image_tokens(work.sequence) for work in works]
        self._encode([work for work, size in zip(works, sizes, strict=True) if work.first < size])
        sampled: list[Sampled] = []
        for work, size in zip(works, sizes, strict=True):
            if not self._write(work, size):  # given up in this very step: nobody may find what was not written
                sampled.append(Sampled(work.sequence, Choice(FILL_TOKEN, None, is_valid=False, problem=GONE)))
            elif work.samples:
                sampled.append(Sampled(work.sequence, Choice(FILL_TOKEN, None, is_valid=True)))
        self._rows = {sequence: rows for sequence, rows in self._rows.items() if sequence.blocks}
        spans = tuple(
            KvSpan(sequence=one.sequence.sequence, first=one.first, end=one.end, blocks=tuple(one.sequence.blocks))
            for one in works
            if one.sequence.hold
        )
        if listener is not None and spans:
            listener(0, spans, Written())
        return sampled

    def scrub(self, blocks: list[BlockId]) -> None:
        self._memory.scrub(blocks)

    def expect(self, tokens: int) -> Callable[[], bool]:  # noqa: ARG002 - nothing depends on it
        return always_ready

    def rest(self) -> None:
        """Nothing to do."""

    def _encode(self, works: Sequence[Work]) -> None:
        """Fill `_rows` for those that lack them; the same image twice in a step is encoded once."""
        wanted: dict[BlockHash, list[LiveSequence]] = {}
        for work in works:
            if work.sequence not in self._rows:
                wanted.setdefault(work.sequence.accepted.unit_hashes[-1], []).append(work.sequence)
        found = [(name, image) for name in wanted if (image := self._prepared.get(name)) is not None]
        if not found:
            return
        started_s = self._clock.now_s()
        arrays = self._tower.rows([image for _, image in found])
        for (name, _), rows in zip(found, arrays, strict=True):
            for sequence in wanted[name]:
                self._rows[sequence] = rows
        self._on_encoded(len(found), sum(len(rows) for rows in arrays), self._clock.now_s() - started_s)

    def _write(self, work: Work, size: int) -> bool:
        """Write a chunk's embeddings; False if its image cannot be had."""
        sequence, end = work.sequence, min(work.end, size)
        if work.first < end:
            rows = self._rows.get(sequence)
            if rows is None or len(rows) != size:
                return False
            self._memory.write(sequence.blocks, work.first, rows[work.first : end])
            if end == size:
                del self._rows[sequence]
        first = max(work.first, size)
        if first < work.end:
            self._memory.write(sequence.blocks, first, np.zeros((work.end - first, self._row_bytes), dtype=np.uint8))
        return True

    @property
    def _row_bytes(self) -> int:
        return self.facts.image_token_bytes


def _image_tokens(sequence: LiveSequence) -> int:
    """How many of its tokens are an image's; 0 for the canary."""
    return sum(span.tokens for span in sequence.accepted.images)
