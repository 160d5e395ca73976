"""Embeddings arrive, are shared, read and let go; no block is lost whatever happens, and every row is the one sent."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sluice.domain.block_hash import extend_chain, root_hash
from sluice.domain.ids import BlockHash, SequenceId
from sluice.domain.image import ImageSpan, embedding_root, embedding_tokens
from sluice.domain.sequence import SequenceState
from sluice.engine.embedding_memory import EmbeddingMemory, embedding_geometry
from sluice.engine.embedding_store import EmbeddingStore, PagedRows
from sluice.errors import ConfigError, IllegalTransitionError, ModelLoadError, ReservationRefusedError
from sluice.testing.sequence_states import ROOT, sequence_state

LEVELS, HIDDEN, ITEM = 3, 8, 4
ROW = LEVELS * HIDDEN * ITEM
BLOCKS = 12


def store_of(blocks: int = BLOCKS) -> tuple[EmbeddingStore, EmbeddingMemory]:
    memory_bytes = blocks * 16 * ROW
    geometry = embedding_geometry(
        levels=LEVELS, hidden=HIDDEN, dtype="float32", dtype_bytes=ITEM, memory_bytes=memory_bytes
    )
    region = memoryview(bytearray(geometry.region_bytes))
    return EmbeddingStore(geometry, region), EmbeddingMemory(geometry, region)


def image(sequence: int, number: int, tokens: int, *, root: BlockHash = ROOT) -> SequenceState:
    """An image's own sequence, one token after its prompt as a commit brings it."""
    digest = bytes([number] * 16)
    prompt = embedding_tokens(digest, tokens)
    state = sequence_state(sequence, prompt)
    start = embedding_root(root)
    return replace(
        state,
        tokens=(*prompt, 0),
        prompt_tokens=len(prompt),
        unit_hashes=tuple(extend_chain(start, prompt)),
        images=(ImageSpan(digest=digest, first=0, rows=1, columns=tokens),),
        viewer=SequenceId(99),
    )


def rows_of(number: int, tokens: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(number).integers(0, 256, (tokens, ROW), dtype=np.uint8)


def bring(store: EmbeddingStore, memory: EmbeddingMemory, state: SequenceState) -> int:
    """Reserve, write what is lacking, attach; how many tokens were there already."""
    span = state.images[0]
    reservation = store.reserve(state.sequence, tokens=state.prompt_tokens, unit_hashes=state.unit_hashes)
    first = min(reservation.cached_tokens, span.tokens)
    memory.write(reservation.blocks, first, rows_of(span.digest[0], span.tokens)[first:])
    store.attach(state, computed=state.prompt_tokens)
    return reservation.cached_tokens


def test_rows_are_what_was_written_wherever_they_are_cut() -> None:
    store, memory = store_of()
    state = image(1, 7, 37)
    bring(store, memory, state)
    rows = store.take(state.sequence, tokens=37)
    for first, end in ((0, 37), (0, 1), (15, 17), (16, 32), (36, 37)):
        assert (rows.rows(first, end) == rows_of(7, 37)[first:end]).all()
    rows.close()


def test_a_picture_that_is_here_is_not_sent_again() -> None:
    store, memory = store_of()
    assert bring(store, memory, image(1, 7, 37)) == 0
    assert bring(store, memory, image(2, 7, 37)) == 48  # its tokens and their fill; one token more is not cached
    for sequence in (1, 2):
        rows = store.take(SequenceId(sequence), tokens=37)
        assert (rows.rows(0, 37) == rows_of(7, 37)).all()
        rows.close()
    assert bring(store, memory, image(3, 7, 37)) == 48, "also when nobody reads it any more"


def test_another_tenant_shares_nothing() -> None:
    store, memory = store_of()
    bring(store, memory, image(1, 7, 37))
    other = root_hash(model_fingerprint="test", salt="another")
    assert bring(store, memory, image(2, 7, 37, root=other)) == 0


def test_room_is_refused_while_everything_is_read_and_given_when_it_is_not() -> None:
    store, memory = store_of(blocks=4)
    bring(store, memory, image(1, 1, 40))
    rows = store.take(SequenceId(1), tokens=40)
    with pytest.raises(ReservationRefusedError, match="can be given"):
        store.reserve(SequenceId(2), tokens=16, unit_hashes=())
    rows.close()
    store.reserve(SequenceId(2), tokens=16, unit_hashes=())


def test_embeddings_are_taken_once_they_have_arrived_and_only_once() -> None:
    store, memory = store_of()
    state = image(1, 7, 20)
    store.reserve(state.sequence, tokens=state.prompt_tokens, unit_hashes=state.unit_hashes)
    with pytest.raises(IllegalTransitionError):
        store.take(state.sequence, tokens=20)
    store.cancel_reservation(state.sequence)
    bring(store, memory, state)
    with pytest.raises(IllegalTransitionError):
        store.cancel_reservation(state.sequence)
    store.take(state.sequence, tokens=20).close()
    with pytest.raises(IllegalTransitionError):
        store.take(state.sequence, tokens=20)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ModelLoadError, match="hidden_size"):
        embedding_geometry(levels=1, hidden=7, dtype="float32", dtype_bytes=4, memory_bytes=1 << 20)
    with pytest.raises(ConfigError, match="embeddings_mib"):
        embedding_geometry(levels=1, hidden=8, dtype="float32", dtype_bytes=4, memory_bytes=10)


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens in whatever order: every block is accounted for, every row read is the one that was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.store, self.memory = store_of()
        self.sequence = 0
        self.reserved: dict[int, SequenceState] = {}
        self.arrived: dict[int, SequenceState] = {}
        self.read: list[tuple[PagedRows, int, int]] = []

    @rule(number=st.integers(1, 4), tokens=st.sampled_from([1, 15, 16, 17, 40]))
    def reserve(self, number: int, tokens: int) -> None:
        self.sequence += 1
        state = image(self.sequence, number * 10 + tokens % 7, tokens)
        try:
            got = self.store.reserve(state.sequence, tokens=state.prompt_tokens, unit_hashes=state.unit_hashes)
        except ReservationRefusedError:
            return
        first = min(got.cached_tokens, tokens)
        self.memory.write(got.blocks, first, rows_of(state.images[0].digest[0], tokens)[first:])
        self.reserved[self.sequence] = state

    @precondition(lambda self: bool(self.reserved))
    @rule(data=st.data(), is_whole=st.booleans())
    def end_reservation(self, data: st.DataObject, is_whole: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.reserved)))
        state = self.reserved.pop(key)
        if is_whole:
            self.store.attach(state, computed=state.prompt_tokens)
            self.arrived[key] = state
        else:
            self.store.cancel_reservation(state.sequence)

    @precondition(lambda self: bool(self.arrived))
    @rule(data=st.data(), is_read=st.booleans())
    def end_arrival(self, data: st.DataObject, is_read: bool) -> None:
        state = self.arrived.pop(data.draw(st.sampled_from(sorted(self.arrived))))
        span = state.images[0]
        if is_read:
            self.read.append((self.store.take(state.sequence, tokens=span.tokens), span.digest[0], span.tokens))
        else:
            self.store.drop(state.sequence)

    @precondition(lambda self: bool(self.read))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.read.pop(data.draw(st.integers(0, len(self.read) - 1)))[0].close()

    @invariant()
    def everything_is_accounted_for(self) -> None:
        self.store.check_integrity()
        counts = self.store.blocks()
        total = counts.free + counts.cached + counts.active + counts.held + counts.reserved
        assert total == counts.total == BLOCKS
        for rows, number, tokens in self.read:
            assert (rows.rows(0, tokens) == rows_of(number, tokens)).all()


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
