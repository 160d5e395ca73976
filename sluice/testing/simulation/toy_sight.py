"""The half of the toy model that sees: pictures without pixels, embeddings that follow from a picture's digest.

Production's runner and scheduler encode them, a toy tower makes them up, and whoever computes a prompt over an
image compares what lies in its store with what the tower would make: a byte that is wrong, late or of another
picture is noticed at once. Next: `sim_sight.py`, where they live.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sluice.clock import Clock
from sluice.domain.block_hash import extend_chain
from sluice.domain.ids import BlockHash, BlockId
from sluice.domain.image import IMAGE_DIGEST_BYTES, ImageLayout, embedding_tokens, parts_of
from sluice.domain.kv import KvGeometry
from sluice.engine.contract import EngineLimits, GroupListener, ModelFacts
from sluice.engine.embedding_memory import EmbeddingMemory, embedding_geometry
from sluice.engine.engine import PagedEngine
from sluice.engine.runner import ModelRunner, Sampled
from sluice.engine.step_plan import StepPlan, Work
from sluice.engine.vision.prepared_store import PreparedStore
from sluice.engine.vision.vision_runner import VisionRunner
from sluice.errors import InvalidRequestError

Bytes = npt.NDArray[np.uint8]

FINGERPRINT: Final = "toy eye"
VOCABULARY: Final = 256  # fill and canary
LEVELS: Final = 2
HIDDEN: Final = 2
TOKEN_BYTES: Final = LEVELS * HIDDEN * 4
PREPARED_MAX: Final = 6
"""Pictures prepared and not forgotten: so few that some are."""

BROKEN: Final = b"broken"
"""What begins a file that is no picture."""


def geometry(*, blocks: int) -> KvGeometry:
    """A pool of toy embeddings."""
    return embedding_geometry(
        levels=LEVELS, hidden=HIDDEN, dtype="float32", dtype_bytes=4, memory_bytes=blocks * 16 * TOKEN_BYTES
    )


def layout_of(data: bytes) -> ImageLayout:
    """What the toy tower will make of a file: its size follows from the bytes; every third is cut into tiles."""
    digest = hashlib.blake2b(data, digest_size=IMAGE_DIGEST_BYTES).digest()
    if digest[1] % 3:
        tokens = 1 + digest[0] % 40
        return ImageLayout(digest=digest, tokens=tokens, rows=1, columns=tokens)
    rows, columns, size = 1 + digest[2] % 2, 1 + digest[3] % 4, 1 + digest[0] % 7
    tokens = (rows * columns + 1) * size
    tiles = {"tile_rows": rows, "tile_columns": columns, "tile_tokens": size}
    return ImageLayout(digest=digest, tokens=tokens, rows=1, columns=tokens, **tiles)


def rows_of(digest: bytes, first: int, end: int) -> Bytes:
    """Embeddings [first, end) of an image, [tokens, bytes]: none like another, none of zeros alone."""
    start = np.frombuffer(digest[:4], dtype=np.uint32)[0]
    words = np.arange(first, end, dtype=np.uint32)[:, None] * np.uint32(2_654_435_761) + start
    cells = words + np.arange(1, TOKEN_BYTES // 4 + 1, dtype=np.uint32) * np.uint32(40_503)
    rows: Bytes = cells.view(np.uint8).reshape(end - first, TOKEN_BYTES)
    return rows


@dataclass(frozen=True, slots=True)
class ToyPrepared:
    """A picture that waits for the tower."""

    layout: ImageLayout
    nbytes: int = 1


class ToyTower:
    """Makes embeddings up."""

    def rows(self, images: Sequence[ToyPrepared]) -> list[Bytes]:
        """See `vision_runner.Tower`."""
        return [rows_of(image.layout.digest, 0, image.layout.tokens) for image in images]


class ToyEye:
    """Prepares pictures; see `engine/vision/eye.py`."""

    def __init__(self, prepared: PreparedStore[ToyPrepared]) -> None:
        self._prepared = prepared

    def look(self, data: bytes, *, root: BlockHash, field: str, side_max: int) -> ImageLayout:  # noqa: ARG002 - as eye.py
        """Raises InvalidRequestError for a file that is no picture."""
        if data.startswith(BROKEN):
            raise InvalidRequestError(field=field, problem="is not an image", remedy="send a picture")
        layout = layout_of(data)
        for part in parts_of(layout):
            name = extend_chain(root, embedding_tokens(part.digest, part.tokens))[-1]
            self._prepared.put(name, ToyPrepared(part))
        return layout


def encode_engine(
    pool: KvGeometry, limits: EngineLimits, memory: memoryview, *, clock: Clock
) -> tuple[PagedEngine, ToyEye]:
    """An encode worker's engine over one pool, and what prepares pictures for it."""
    prepared: PreparedStore[ToyPrepared] = PreparedStore(bytes_max=PREPARED_MAX)
    facts = ModelFacts(
        name="toy",
        fingerprint=FINGERPRINT,
        vocabulary=VOCABULARY,
        eos_token_ids=(),
        layers=LEVELS,
        kv_heads=1,
        head_dim=pool.head_dim,
        dtype="float32",
        dtype_bytes=4,
        sequence_tokens_max=4096,
        device="cpu",
        image_token_bytes=TOKEN_BYTES,
    )
    runner = VisionRunner(facts, ToyTower(), EmbeddingMemory(pool, memory), prepared, clock=clock)
    return PagedEngine(runner, geometry=pool, limits=limits, clock=clock), ToyEye(prepared)


class SeeingRunner:
    """A runner that looks at every embedding its step reads, before it runs. Implements `runner.ModelRunner`."""

    def __init__(self, runner: ModelRunner, on_wrong: Callable[[str], None]) -> None:
        self._runner = runner
        self._on_wrong = on_wrong

    @property
    def facts(self) -> ModelFacts:
        return self._runner.facts

    @property
    def kv_address(self) -> int:
        return self._runner.kv_address

    @property
    def kv_device(self) -> str:
        return self._runner.kv_device

    def run(self, plan: StepPlan, listener: GroupListener | None) -> Sequence[Sampled]:
        for work in (*plan.decodes, *plan.prefills):
            self._look(work)
        return self._runner.run(plan, listener)

    def scrub(self, blocks: list[BlockId]) -> None:
        self._runner.scrub(blocks)

    def expect(self, tokens: int) -> Callable[[], bool]:
        return self._runner.expect(tokens)

    def rest(self) -> None:
        self._runner.rest()

    def _look(self, work: Work) -> None:
        for span in work.sequence.accepted.images:
            first, end = max(span.first, work.first), min(span.end, work.end)
            if first >= end:
                continue
            start, stop = first - span.first + span.offset, end - span.first + span.offset
            read = work.sequence.embeddings[span.digest].rows(start, stop)
            if not np.array_equal(read, rows_of(span.digest, start, stop)):
                what = f"embeddings {start}..{stop} of {span.digest.hex()}"
                self._on_wrong(f"sequence {work.sequence.sequence} reads {what} that are not the picture's")
