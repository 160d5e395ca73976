"""Embeddings find their reader whether they come before it, while it waits, or after it has left."""

from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from sluice.clock import ManualClock
from sluice.domain.block_hash import extend_chain
from sluice.domain.ids import BootId, Epoch, SequenceId
from sluice.domain.image import ImageSpan, embedding_root, embedding_tokens
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import EmbeddingRows
from sluice.engine.embedding_memory import embedding_geometry
from sluice.engine.embedding_store import EmbeddingStore
from sluice.errors import OverloadedError
from sluice.prefill_worker.viewing import BEGUN_MAX, Viewing
from sluice.testing.sequence_states import ROOT, sequence_state
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb

READER = SequenceId(7)
DIGEST = bytes(range(16))


class Bench:
    """A store and its keeper; the shell and the engine's thread are played by the test."""

    def __init__(self) -> None:
        geometry = embedding_geometry(levels=1, hidden=8, dtype="float32", dtype_bytes=4, memory_bytes=8 * 16 * 32)
        self.store = EmbeddingStore(geometry, memoryview(bytearray(geometry.region_bytes)))
        self.clock = ManualClock(50.0)
        self.live: set[SequenceId] = set()
        self.provided: list[tuple[SequenceId, bytes, EmbeddingRows]] = []
        self.sent_back: list[tuple[SequenceId, bool]] = []
        self.is_full = False
        shell: Any = SimpleNamespace(
            now_s=self.clock.now_s,
            epoch_of=lambda sequence: Epoch(1) if sequence in self.live else None,
            steps=SimpleNamespace(call=self._call),
            report=lambda sequence, message: self.sent_back.append((sequence, message.failed.unstarted)),
            drop=self.live.discard,
        )
        self.viewing = Viewing(shell, self.store, boot=BootId("b"), patience_s=30.0)

    def _call(self, question: Any) -> "Future[None]":
        answer: Future[None] = Future()
        if self.is_full:
            answer.set_exception(OverloadedError("full", retry_after_s=1))
        else:
            engine = SimpleNamespace(provide=lambda *given: self.provided.append(given))
            answer.set_result(question(engine))
        return answer

    def arrive(self, sequence: int, *, viewer: SequenceId | None = READER) -> None:
        """An image's embeddings are committed."""
        state = image(sequence, viewer)
        self.store.reserve(state.sequence, tokens=state.prompt_tokens, unit_hashes=state.unit_hashes)
        self.store.attach(state, computed=state.prompt_tokens)

    def begin(self) -> None:
        """The router starts the reader here."""
        self.live.add(READER)
        span = ImageSpan(digest=DIGEST, first=0, rows=1, columns=20)
        state = replace(sequence_state(READER, [5] * 30), images=(span,))
        self.viewing.hear(pb.RouterMessage(start=pb.Start(state=convert.state_to_wire(state))))


def image(sequence: int, viewer: SequenceId | None) -> SequenceState:
    prompt = embedding_tokens(DIGEST, 20)
    return replace(
        sequence_state(sequence, prompt),
        tokens=(*prompt, 0),
        prompt_tokens=len(prompt),
        unit_hashes=tuple(extend_chain(embedding_root(ROOT), prompt)),
        images=(ImageSpan(digest=DIGEST, first=0, rows=1, columns=20),),
        viewer=viewer,
    )


def test_a_waiting_reader_gets_them_at_once() -> None:
    bench = Bench()
    bench.begin()
    bench.arrive(1)
    ((reader, digest, rows),) = bench.provided
    assert (reader, digest, rows.tokens) == (READER, DIGEST, 20)
    assert bench.store.blocks().active
    rows.close()
    assert not bench.store.blocks().active


def test_early_ones_wait_for_their_reader() -> None:
    bench = Bench()
    bench.arrive(1)
    assert bench.provided == []
    assert bench.viewing.early == 1
    bench.begin()
    assert len(bench.provided) == 1
    assert bench.viewing.early == 0


def test_early_ones_whose_reader_never_comes_are_only_cached_in_the_end() -> None:
    bench = Bench()
    bench.arrive(1)
    bench.clock.advance(29.0)
    bench.viewing._look_again()
    assert bench.store.blocks().held
    bench.clock.advance(2.0)
    bench.viewing._look_again()
    counts = bench.store.blocks()
    assert counts.free + counts.cached == counts.total
    bench.store.check_integrity()


def test_late_ones_whose_reader_has_left_are_only_cached_at_once() -> None:
    bench = Bench()
    bench.begin()
    bench.live.clear()
    bench.arrive(1)
    assert bench.viewing.early == 0
    assert not bench.store.blocks().held
    for number in range(BEGUN_MAX):  # long after, nothing is remembered of it, and it waits as for a new one
        bench.live = {SequenceId(1000 + number)}
        bench.viewing._is_here(SequenceId(1000 + number))
    bench.arrive(2)
    assert bench.viewing.early == 1


def test_a_reader_that_comes_after_its_images_were_let_go_is_sent_back_and_not_left_to_wait() -> None:
    """It waited for its deadline: its router believed that all images were here."""
    bench = Bench()
    bench.arrive(1)
    bench.clock.advance(31.0)
    bench.viewing._look_again()
    bench.begin()
    assert bench.sent_back == [(READER, True)], "before it began: that costs no attempt"
    assert not bench.live
    bench.begin()
    assert len(bench.sent_back) == 1, "its images are brought again"
    assert bench.live


def test_an_image_of_a_reader_that_left_and_comes_again_sends_it_back() -> None:
    bench = Bench()
    bench.begin()
    bench.live.clear()
    bench.arrive(1)  # for the reader's next epoch, whose start is late
    bench.begin()
    assert bench.sent_back == [(READER, True)]


def test_nothing_is_lost_when_the_engine_takes_no_question() -> None:
    bench = Bench()
    bench.begin()
    bench.is_full = True
    bench.arrive(1)
    counts = bench.store.blocks()
    assert counts.free + counts.cached == counts.total


async def test_a_canary_of_zeros_is_answered_and_anything_else_is_not_believed() -> None:
    bench = Bench()
    for sequence, spoiled in ((1, False), (2, True)):
        state = replace(image(sequence, None), images=(), unit_hashes=(), tokens=tuple([5] * 15), prompt_tokens=14)
        got = bench.store.reserve(state.sequence, tokens=16, unit_hashes=())
        if spoiled:
            bench.store._memory.write(got.blocks, 3, np.full((1, 32), 1, dtype=np.uint8))
        token = await bench.viewing.canary.go_on(state, computed=14)
        assert (token == 0) is not spoiled
        assert bench.store.blocks().free == bench.store.blocks().total
