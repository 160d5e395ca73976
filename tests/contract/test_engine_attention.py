"""Paged attention equals the obvious one, whatever the lengths, heads, windows, caps, sinks and blocks."""

import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.domain.ids import BlockId
from sluice.domain.kv import KvGeometry
from sluice.engine import kept_keys, ready_memory
from sluice.engine.attention import paged_attention
from sluice.engine.input_builder import InputBuilder
from sluice.engine.kept_keys import Decode, KeyKeeper
from sluice.engine.kv_cache import KvCache
from sluice.engine.sequence import LiveSequence
from sluice.engine.step_inputs import StepContext, StepInputs
from sluice.engine.step_plan import StepPlan, Work
from sluice.testing.sequence_states import sequence_state

torch.set_num_threads(1)
CPU = torch.device("cpu")


def attention_reference(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    first: int,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """One sequence, one query, one head at a time; [queries, heads, dim] over [keys, kv heads, dim]."""
    output = torch.zeros_like(queries)
    shared = queries.shape[1] // keys.shape[1]
    for row in range(queries.shape[0]):
        last = first + row
        start = 0 if window is None else max(0, last - window + 1)
        for head in range(queries.shape[1]):
            seen = keys[start : last + 1, head // shared]
            scores = seen @ queries[row, head] * queries.shape[2] ** -0.5
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            if sinks is not None:
                scores = torch.cat([scores, sinks[head : head + 1]])
            weights = scores.softmax(0)[: len(seen)]
            output[row, head] = weights @ values[start : last + 1, head // shared]
    return output


class Case:
    """Random sequences with KV of their earlier tokens already in a pool of shuffled blocks."""

    def __init__(self, seed: int, spans: list[tuple[int, int]], heads: int, shared: int, block_tokens: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.shared, self.dim = shared, 8
        blocks = sum(-(-(first + count) // block_tokens) + 1 for first, count in spans) + 2
        self.geometry = KvGeometry(
            layers=3,
            group_layers=2,
            heads=heads,
            head_dim=self.dim,
            block_tokens=block_tokens,
            blocks=blocks,
            dtype="float32",
            dtype_bytes=4,
        )
        self.cache = KvCache(geometry=self.geometry, buffer=None, device=CPU)
        self.cache._region.fill_(3.0)  # rows nobody wrote must not matter
        free = [BlockId(block) for block in range(blocks)]
        random.Random(seed).shuffle(free)
        self.works: list[Work] = []
        for index, (first, count) in enumerate(spans):
            sequence = LiveSequence(
                accepted=sequence_state(index, [1] * (first + count)),
                arrival=index,
                due_s=0.0,
                hold=False,
                block_tokens=block_tokens,
            )
            sequence.blocks = [free.pop() for _ in range(self.geometry.blocks_for(first + count))]
            self.works.append(Work(sequence, first, first + count))
        self.keys = [self.random(work.end, heads) for work in self.works]
        self.values = [self.random(work.end, heads) for work in self.works]

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, self.dim, generator=self.generator)

    def store_earlier_tokens(self, layer: int) -> None:
        group = layer // self.geometry.group_layers
        layers = len(self.geometry.layers_of(group))
        shape = (self.geometry.blocks, layers, 2, self.geometry.heads, self.geometry.block_tokens, self.dim)
        view = self.cache._group(group).view(shape)[:, layer % self.geometry.group_layers]
        for work, keys, values in zip(self.works, self.keys, self.values, strict=True):
            for token in range(work.first):
                block, offset = divmod(token, self.geometry.block_tokens)
                view[work.sequence.blocks[block], 0, :, offset] = keys[token]
                view[work.sequence.blocks[block], 1, :, offset] = values[token]

    def order_of(self, inputs: StepInputs) -> list[int]:
        """Whose tokens stand where in the packed row: read off the blocks that they are written to."""
        layers, rows = next(iter(inputs.write_rows.items()))
        block_rows = layers * 2 * self.geometry.heads * self.geometry.block_tokens
        owner = {block: index for index, work in enumerate(self.works) for block in work.sequence.blocks}
        written = (rows.view(-1, self.geometry.heads)[:, 0] // block_rows).tolist()
        return list(dict.fromkeys(owner[block] for block in written))

    def check(
        self, builder: InputBuilder, layer: int, window: int | None, softcap: float | None, *, has_sinks: bool
    ) -> None:
        """One step of one layer over all works, beside the reference."""
        decodes = tuple(work for work in self.works if work.tokens == 1)
        prefills = tuple(work for work in self.works if work.tokens > 1)
        inputs = builder.build(StepPlan(decodes=decodes, prefills=prefills, preempted=0))
        order = self.order_of(inputs)
        heads = self.geometry.heads * self.shared
        queries = [self.random(self.works[index].tokens, heads) for index in order]
        new = [slice(self.works[index].first, self.works[index].end) for index in order]
        sinks = torch.randn(heads, generator=self.generator) if has_sinks else None
        context = StepContext(cache=self.cache, write_rows=inputs.write_rows, groups=inputs.groups, on_group=None)

        def packed(rows: list[torch.Tensor]) -> torch.Tensor:
            return torch.cat(rows).transpose(0, 1)[None]

        output, _ = paged_attention(
            SimpleNamespace(layer_idx=layer),  # type: ignore[arg-type]  # only its index is read
            packed(queries),
            packed([self.keys[index][part] for index, part in zip(order, new, strict=True)]),
            packed([self.values[index][part] for index, part in zip(order, new, strict=True)]),
            None,
            step=context,
            sliding_window=window,
            softcap=softcap,
            s_aux=sinks,
        )
        expected = [
            attention_reference(
                rows,
                self.keys[index],
                self.values[index],
                first=self.works[index].first,
                window=window,
                softcap=softcap,
                sinks=sinks,
            )
            for index, rows in zip(order, queries, strict=True)
        ]
        torch.testing.assert_close(output[0], torch.cat(expected), atol=2e-5, rtol=1e-4)


spans = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 70), st.just(1)),
        st.tuples(st.integers(0, 40), st.integers(2, 30)),
        st.tuples(st.just(0), st.integers(1, 50)),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    spans=spans,
    heads=st.sampled_from([1, 2, 4]),
    shared=st.sampled_from([1, 2, 3]),
    block_tokens=st.sampled_from([16, 32]),
    layer=st.integers(0, 2),
    window=st.sampled_from([None, 1, 7, 16, 33, 500]),
    softcap=st.sampled_from([None, None, 4.0]),
    has_sinks=st.booleans(),
    call_pairs=st.sampled_from([0, 300, 10**9]),
)
def test_paged_attention_equals_the_reference(
    *,
    seed: int,
    spans: list[tuple[int, int]],
    heads: int,
    shared: int,
    block_tokens: int,
    layer: int,
    window: int | None,
    softcap: float | None,
    has_sinks: bool,
    call_pairs: int,
) -> None:
    case = Case(seed, spans, heads, shared, block_tokens)
    builder = InputBuilder(cache=case.cache, dtype=torch.float32, windows=(None, window))
    builder._decode_call_pairs = builder._prefill_call_pairs = call_pairs
    case.store_earlier_tokens(layer)
    case.check(builder, layer, window, softcap, has_sinks=has_sinks)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    starts=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    steps=st.lists(st.integers(1, 31), min_size=2, max_size=14),
    window=st.sampled_from([None, 40]),
    softcap=st.sampled_from([None, 5.0]),
)
def test_keys_kept_between_steps_are_the_ones_in_the_pool(
    seed: int, starts: list[int], steps: list[int], window: int | None, softcap: float | None
) -> None:
    """Decodes many steps through one builder; bit i of a step says whether sequence i is in the batch."""
    case = Case(seed, [(first, len(steps)) for first in starts], 2, 2, 16)
    everyone = [(work.sequence, work.first) for work in case.works]
    keys, values = case.keys, case.values
    builder = InputBuilder(cache=case.cache, dtype=torch.float32, windows=(None, window))
    case.store_earlier_tokens(0)
    done = [0] * len(everyone)
    for step in steps:
        members = [index for index in range(len(everyone)) if step >> index & 1]
        case.works, case.keys, case.values = [], [], []
        for index in members:
            sequence, first = everyone[index]
            end = first + done[index] + 1
            case.works.append(Work(sequence, end - 1, end))
            case.keys.append(keys[index][:end])
            case.values.append(values[index][:end])
            done[index] += 1
        if members:
            case.check(builder, 0, window, softcap, has_sinks=False)


def test_a_copy_serves_those_who_stay_and_gathers_those_who_come() -> None:
    case = Case(0, [(20, 1), (30, 1), (10, 1)], 2, 1, 16)
    one, two, three = (work.sequence for work in case.works)
    keeper = KeyKeeper(geometry=case.geometry, dtype=torch.float32, windows=(None,))

    def place(*group: tuple[LiveSequence, int]) -> tuple[list[int], list[int]]:
        (placed,) = keeper.arrange([[Decode(*each) for each in group]])
        assert placed.kept is not None
        return placed.order, [row for run in placed.kept.fresh for row in range(*run)]

    assert place((one, 20), (two, 30)) == ([0, 1], [0, 1])
    assert place((two, 31), (one, 21)) == ([1, 0], []), "each keeps its row"
    assert place((one, 22), (three, 32)) == ([0, 1], [1]), "one goes, one comes"
    assert place((three, 33), (two, 33), (one, 23)) == ([2, 0, 1], [2])
    assert place((two, 34), (three, 34)) == ([0, 1], []), "the last row fills the hole"
    assert place((two, 36), (three, 35)) == ([0, 1], [0]), "a token is missing"
    assert place((two, 36), (three, 36)) == ([0, 1], [0]), "the same step again"
    assert place((two, 37), (three, 300)) == ([0, 1], [0, 1]), "no room left"
    keeper.arrange([])
    assert place((two, 38)) == ([0], [0]), "a step without it"


def test_groups_that_part_and_join_keep_their_copies() -> None:
    case = Case(0, [(20, 1), (30, 1), (10, 1)], 2, 1, 16)
    one, two, three = (work.sequence for work in case.works)
    keeper = KeyKeeper(geometry=case.geometry, dtype=torch.float32, windows=(None,))

    def fresh(*groups: list[tuple[LiveSequence, int]]) -> list[int]:
        placements = keeper.arrange([[Decode(*each) for each in group] for group in groups])
        return [sum(end - first for first, end in placed.kept.fresh) for placed in placements if placed.kept]

    assert fresh([(one, 20), (two, 30)], [(three, 10)]) == [2, 1]
    assert fresh([(three, 11)], [(two, 31), (one, 21)]) == [0, 0], "whatever their order"
    assert fresh([(three, 12), (two, 32), (one, 22)]) == [1], "the larger copy is gone on with"


def test_a_copy_is_dropped_when_a_window_stops_or_begins_to_hide_keys() -> None:
    """Layers with a window filled it only while the window was longer than all."""
    case = Case(0, [(20, 1), (30, 1)], 2, 1, 16)
    one, two = (work.sequence for work in case.works)
    keeper = KeyKeeper(geometry=case.geometry, dtype=torch.float32, windows=(None, 31))
    (both,) = keeper.arrange([[Decode(one, 20), Decode(two, 31)]])
    assert both.kept is not None
    (longer,) = keeper.arrange([[Decode(one, 21), Decode(two, 32)]])
    assert longer.kept is not None
    assert longer.kept.fresh == ((0, 2),)
    (shorter,) = keeper.arrange([[Decode(one, 22)]])
    assert shorter.kept is not None
    assert shorter.kept.fresh == ((0, 1),)
    only_windows = KeyKeeper(geometry=case.geometry, dtype=torch.float32, windows=(16,))
    assert only_windows.arrange([[Decode(one, 40)]])[0].kept is None


def test_a_long_sequences_copy_lasts_for_more_steps() -> None:
    """Gathering it again takes as long as many steps; a short one's takes no time."""
    case = Case(0, [(20, 1)], 2, 1, 16)
    sequence = case.works[0].sequence
    for tokens, lasts in ((16, 128), (16_000, 1_000)):
        keeper = KeyKeeper(geometry=case.geometry, dtype=torch.float32, windows=(None,))
        runs = [keeper.arrange([[Decode(sequence, end)]])[0].kept for end in range(tokens, tokens + lasts + 20)]
        gathered = [step for step, kept in enumerate(runs) if kept is None or kept.fresh]
        assert len(gathered) == 2
        assert gathered[1] > lasts


def test_a_sequence_that_was_expected_finds_memory_that_has_been_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long its touching would rest: who needs it hurries it."""
    monkeypatch.setattr(kept_keys, "EXPECTED_BYTES_MIN", 0)
    monkeypatch.setattr(ready_memory, "REST_FACTOR", 1e6)
    case = Case(0, [(20, 1), (30, 1)], 2, 1, 16)
    small, large = (work.sequence for work in case.works)
    keeper = KeyKeeper(geometry=case.geometry, dtype=torch.float32, windows=(None,))
    keeper.expect(50)
    is_ready = keeper.expect(4000)
    assert keeper.expect(60)(), "a small one does not wait for a large one, nor takes its place"
    (other,) = keeper.arrange([[Decode(small, 20)]])
    assert other.kept is not None
    made = keeper._ready._made
    assert not made, "a small one does not wait for memory that is made for a large one"
    assert not is_ready(), "it rests for ever"
    _, placed = keeper.arrange([[Decode(small, 21)], [Decode(large, 3500)]])
    assert is_ready()
    assert placed.kept is not None
    assert placed.kept.layers[0].data_ptr() == made[0].data_ptr()
    assert not keeper._ready._made, "whoever took it lets it go"
