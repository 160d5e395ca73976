"""Paged attention equals the obvious one, whatever the lengths, heads, windows, caps, sinks and blocks."""

import random
from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.domain.ids import BlockId
from sluice.domain.kv import KvGeometry
from sluice.engine.attention import paged_attention
from sluice.engine.input_builder import InputBuilder
from sluice.engine.kept_keys import GROWTH_TOKENS, KeyKeeper
from sluice.engine.kv_cache import KvCache
from sluice.engine.sequence import LiveSequence
from sluice.engine.step_inputs import StepContext
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

    def check(
        self, builder: InputBuilder, layer: int, window: int | None, softcap: float | None, *, has_sinks: bool
    ) -> None:
        """One step of one layer over all works, beside the reference."""
        decodes = tuple(work for work in self.works if work.tokens == 1)
        prefills = tuple(work for work in self.works if work.tokens > 1)
        inputs = builder.build(StepPlan(decodes=decodes, prefills=prefills, preempted=0))
        order = [
            self.works.index(work)
            for part in (decodes, prefills)
            for work in sorted(part, key=lambda work: (work.tokens, work.end), reverse=True)
        ]
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


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    starts=st.lists(st.integers(1, 60), min_size=2, max_size=4),
    steps=st.integers(2, 20),
    leaves_at=st.integers(0, 20),
    softcap=st.sampled_from([None, 4.0]),
)
def test_keys_kept_between_steps_are_the_ones_in_the_pool(
    seed: int, starts: list[int], steps: int, leaves_at: int, softcap: float | None
) -> None:
    """Decodes many steps through one builder while a sequence leaves the batch on the way."""
    case = Case(seed, [(first, steps) for first in starts], 2, 2, 16)
    everyone = case.works
    keys, values = case.keys, case.values
    builder = InputBuilder(cache=case.cache, dtype=torch.float32, windows=(None,))
    case.store_earlier_tokens(0)
    for step in range(steps):
        staying = slice(0, None if step < leaves_at else -1)
        case.works = [Work(work.sequence, work.first + step, work.first + step + 1) for work in everyone][staying]
        case.keys = [each[: work.end] for each, work in zip(keys, case.works, strict=False)]
        case.values = [each[: work.end] for each, work in zip(values, case.works, strict=False)]
        case.check(builder, 0, None, softcap, has_sinks=False)


def test_a_copy_serves_only_the_same_sequences_one_token_further() -> None:
    case = Case(0, [(20, 1), (30, 1), (10, 1)], 2, 1, 16)
    one, two, three = (work.sequence for work in case.works)
    keeper = KeyKeeper(geometry=case.geometry, dtype=torch.float32)

    def is_filled(sequences: list[LiveSequence], ends: list[int], *, keys: int = 48) -> bool:
        kept = keeper.keep(sequences, ends, keys=keys)
        keeper.end_step()
        assert kept is not None
        return kept.is_filled

    assert not is_filled([one, two], [20, 30])
    assert is_filled([one, two], [21, 31])
    assert not is_filled([one, three], [22, 32]), "another sequence"
    assert not is_filled([one, two], [22, 32]), "not the step before"
    assert not is_filled([one, two], [23, 34]), "a token is missing"
    assert not is_filled([one, two], [23, 34]), "the same step again"
    assert not is_filled([one], [24])
    assert is_filled([one], [25], keys=48 + GROWTH_TOKENS)
    assert not is_filled([one], [26], keys=49 + GROWTH_TOKENS), "no room left"
    keeper.end_step()
    assert not is_filled([one], [27]), "a step without it"
