"""A plan moves exactly the tokens asked for, whatever the two pools look like, and nothing else."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sluice.domain.ids import BlockId
from sluice.domain.kv import KvGeometry
from sluice.errors import InvalidRequestError
from sluice.kv_transfer.checksum import crc32_of_source, crc32_of_target, receiver_plan
from sluice.kv_transfer.plan import Span, block_ranges, compile_plan, plan_bytes

Bytes = NDArray[np.uint8]

BASE = KvGeometry(
    layers=6, group_layers=3, heads=4, head_dim=2, block_tokens=16, blocks=9, dtype="float16", dtype_bytes=2
)


def ids(*blocks: int) -> tuple[BlockId, ...]:
    return tuple(BlockId(block) for block in blocks)


def token_bytes(geometry: KvGeometry, *, layer: int, kind: int, head: int, block: int, token: int) -> slice:
    """Where one token's K or V of one model head is, straight from the layout's definition."""
    group = layer // geometry.group_layers
    layers_in_group = min(geometry.group_layers, geometry.layers - group * geometry.group_layers)
    index = geometry.group_offset(group) // (geometry.head_dim * geometry.dtype_bytes)
    local = layer - group * geometry.group_layers
    index += ((block * layers_in_group + local) * 2 + kind) * geometry.heads * geometry.block_tokens
    index += (head - geometry.rank * geometry.heads) * geometry.block_tokens + token
    size = geometry.head_dim * geometry.dtype_bytes
    return slice(index * size, (index + 1) * size)


@dataclass(frozen=True)
class Case:
    source: KvGeometry
    target: KvGeometry
    group: int
    span: Span


def reference(case: Case, pool: Bytes, before: Bytes) -> Bytes:
    """The obvious way: token by token."""
    source, target, span = case.source, case.target, case.span
    after = before.copy()
    ours = range(source.rank * source.heads, (source.rank + 1) * source.heads)
    theirs = range(target.rank * target.heads, (target.rank + 1) * target.heads)
    for token in range(span.first, span.end):
        for layer in source.layers_of(case.group):
            for head in set(ours) & set(theirs):
                for kind in (0, 1):
                    where = {"layer": layer, "kind": kind, "head": head}
                    from_block, from_token = divmod(token, source.block_tokens)
                    to_block, to_token = divmod(token, target.block_tokens)
                    read = token_bytes(source, **where, block=span.source_blocks[from_block], token=from_token)
                    write = token_bytes(target, **where, block=span.target_blocks[to_block], token=to_token)
                    after[write] = pool[read]
    return after


@st.composite
def cases(draw: st.DrawFn) -> Case:
    model_heads = draw(st.sampled_from([1, 2, 4, 6]))
    layers, end = draw(st.integers(1, 7)), draw(st.integers(0, 150))

    def geometry() -> KvGeometry:
        ranks = draw(st.sampled_from([ranks for ranks in (1, 2, 3, 4) if model_heads % ranks == 0]))
        return KvGeometry(
            layers=layers,
            group_layers=draw(st.integers(1, 8)),
            heads=model_heads // ranks,
            head_dim=2,
            block_tokens=draw(st.sampled_from([16, 32, 48, 64])),
            blocks=12,
            dtype="float16",
            dtype_bytes=2,
            rank=draw(st.integers(0, ranks - 1)),
            ranks=ranks,
        )

    def blocks(pool: KvGeometry) -> tuple[BlockId, ...]:
        shuffled = draw(st.permutations(range(pool.blocks)))
        is_sorted = draw(st.booleans())  # contiguous runs are the common case
        return ids(*(sorted(shuffled) if is_sorted else shuffled))

    source, target = geometry(), geometry()
    span = Span(source_blocks=blocks(source), target_blocks=blocks(target), first=draw(st.integers(0, end)), end=end)
    return Case(source, target, draw(st.integers(0, source.groups - 1)), span)


def pools(case: Case) -> tuple[Bytes, Bytes]:
    noise = np.random.default_rng(7)
    return (
        noise.integers(0, 256, case.source.region_bytes, dtype=np.uint8),
        noise.integers(0, 256, case.target.region_bytes, dtype=np.uint8),
    )


@settings(max_examples=60, deadline=None)
@given(cases())
def test_carrying_out_a_plan_equals_moving_every_token_by_hand(case: Case) -> None:
    pool, before = pools(case)
    plan = compile_plan(source=case.source, target=case.target, group=case.group, span=case.span)
    after = before.copy()
    for read, write, length in zip(plan.source.tolist(), plan.target.tolist(), plan.length.tolist(), strict=True):
        after[write : write + length] = pool[read : read + length]
    np.testing.assert_array_equal(after, reference(case, pool, before))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_the_size_of_a_plan_is_known_without_compiling_it(case: Case) -> None:
    plan = compile_plan(source=case.source, target=case.target, group=case.group, span=case.span)
    tokens = case.span.end - case.span.first
    assert plan.total_bytes == plan_bytes(source=case.source, target=case.target, group=case.group, tokens=tokens)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_a_plan_writes_only_inside_the_targets_blocks(case: Case) -> None:
    plan = compile_plan(source=case.source, target=case.target, group=case.group, span=case.span)
    used = case.span.target_blocks[: case.target.blocks_for(case.span.end)]
    allowed = np.zeros(case.target.region_bytes, dtype=bool)
    ranges = block_ranges(case.target, used)
    for start, length in zip(ranges.target.tolist(), ranges.length.tolist(), strict=True):
        allowed[start : start + length] = True
    assert allowed.sum() == len(used) * case.target.region_bytes // case.target.blocks
    for start, length in zip(plan.target.tolist(), plan.length.tolist(), strict=True):
        assert length > 0
        assert allowed[start : start + length].all()


@settings(max_examples=30, deadline=None)
@given(cases())
def test_both_ends_take_the_same_checksum_of_what_arrived(case: Case) -> None:
    pool, other = pools(case)
    plan = compile_plan(source=case.source, target=case.target, group=case.group, span=case.span)
    for read, write, length in zip(plan.source.tolist(), plan.target.tolist(), plan.length.tolist(), strict=True):
        other[write : write + length] = pool[read : read + length]
    theirs = receiver_plan(
        source=case.source,
        target=case.target,
        group=case.group,
        target_blocks=case.span.target_blocks,
        first=case.span.first,
        end=case.span.end,
    )
    assert crc32_of_source(memoryview(pool), plan) == crc32_of_target(memoryview(other), theirs)
    if len(plan):
        other[plan.target[-1]] ^= 1
        assert crc32_of_source(memoryview(pool), plan) != crc32_of_target(memoryview(other), theirs)


def test_a_whole_block_of_equal_pools_is_one_range() -> None:
    span = Span(source_blocks=ids(5, 1, 7), target_blocks=ids(2, 8, 4), first=0, end=48)
    plan = compile_plan(source=BASE, target=BASE, group=1, span=span)
    assert plan.length.tolist() == [BASE.block_bytes(1)] * 3
    assert plan.source.tolist() == [BASE.group_offset(1) + block * BASE.block_bytes(1) for block in (5, 1, 7)]


def test_runs_that_are_adjacent_on_both_sides_become_one_range() -> None:
    span = Span(source_blocks=ids(3, 4, 5, 0), target_blocks=ids(1, 2, 3, 4), first=0, end=64)
    plan = compile_plan(source=BASE, target=BASE, group=0, span=span)
    assert plan.length.tolist() == [3 * BASE.block_bytes(0), BASE.block_bytes(0)]


def test_ranks_that_share_no_heads_have_nothing_to_move() -> None:
    halves = [replace(BASE, heads=2, rank=rank, ranks=2) for rank in (0, 1)]
    span = Span(source_blocks=ids(0), target_blocks=ids(0), first=0, end=16)
    assert len(compile_plan(source=halves[0], target=halves[1], group=0, span=span)) == 0


@pytest.mark.parametrize(
    ("span", "field"),
    [
        (Span(source_blocks=ids(0), target_blocks=ids(0, 1), first=0, end=17), "source_blocks"),
        (Span(source_blocks=ids(0, 1), target_blocks=ids(0), first=0, end=17), "target_blocks"),
        (Span(source_blocks=ids(0), target_blocks=ids(9), first=0, end=16), "target_blocks"),
        (Span(source_blocks=ids(-1), target_blocks=ids(0), first=0, end=16), "source_blocks"),
        (Span(source_blocks=ids(0), target_blocks=ids(0), first=4, end=3), "span"),
        (Span(source_blocks=ids(0), target_blocks=ids(0), first=-1, end=3), "span"),
    ],
)
def test_a_span_that_does_not_fit_is_refused_by_field(span: Span, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        compile_plan(source=BASE, target=BASE, group=0, span=span)
    assert caught.value.field == field


def test_a_long_prompt_is_planned_without_looping_over_it() -> None:
    pool = replace(BASE, blocks=10_000)
    table = ids(*range(8_192))
    span = Span(source_blocks=table[::-1], target_blocks=table, first=0, end=8_192 * 16)
    plan = compile_plan(source=pool, target=pool, group=0, span=span)
    assert plan.total_bytes == 8_192 * pool.block_bytes(0)
