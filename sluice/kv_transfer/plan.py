"""Compiles "these tokens of this layer group, from my blocks to yours" into byte ranges to copy.

Both pools are laid out [layer group][block][layer][K/V][head][token][dim] (domain/kv.py), yet
may differ in block size, group size and which of the model's heads they hold. The tokens are
cut wherever either side starts a new block:

    source blocks (32)  |        0        |        1        |
    target blocks (16)  |    0   |    1   |    2   |    3   |
    segments              ...  . |........|........|...

A segment that is a whole block on both sides with the same heads is one range for all layers of
the group; otherwise one range per layer, K/V and head. Ranges adjacent on both sides become one.
The order of the bytes depends on geometries and tokens only, never on block ids, so both ends
can take a checksum of the same stream (`checksum.py`).

Pure, and vectorised: no Python loop over tokens, blocks or layers. Next: `transport.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sluice.domain.ids import BlockId
from sluice.domain.kv import K_AND_V, KvGeometry
from sluice.errors import InvalidRequestError
from sluice.kv_transfer.transport import Descriptors

Ints: TypeAlias = NDArray[np.int64]

_BOTH: Final = np.arange(K_AND_V, dtype=np.int64)
_FIRST: Final = np.zeros(1, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Tokens [first, end) of one sequence, and the block table of each side from token 0."""

    source_blocks: Sequence[BlockId]
    target_blocks: Sequence[BlockId]
    first: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axes:
    """Index sets whose product is a set of pieces: [layer][segment][K/V][head]."""

    layers: Ints
    kinds: Ints  # which of K (0) and V (1)
    heads: Ints  # of the model, not of a rank


def compile_plan(*, source: KvGeometry, target: KvGeometry, group: int, span: Span) -> Descriptors:
    """Ranges that move `span`'s KV of the source's layer group `group`, for the heads both sides hold.

    Exactly the bytes of tokens [first, end) are written, never the rest of a block: pushes of one
    sequence may arrive in any order. To move a sequence's last block as one range, round `end` up
    to the block: both sides own it whole. The geometries must have passed `fingerprint.compare`.
    Raises InvalidRequestError if a block table is too short or names a block that does not exist.
    """
    starts, tokens = _segments(source, target, span)
    head_first = max(source.rank * source.heads, target.rank * target.heads)
    head_end = min((source.rank + 1) * source.heads, (target.rank + 1) * target.heads)
    if not len(starts) or head_first >= head_end:
        return Descriptors(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
    source_blocks = _blocks_at(source, span.source_blocks, starts, end=span.end, field="source_blocks")
    target_blocks = _blocks_at(target, span.target_blocks, starts, end=span.end, field="target_blocks")
    is_whole = (tokens == source.block_tokens) & (source.block_tokens == target.block_tokens)
    layers = np.asarray(source.layers_of(group), dtype=np.int64)

    def pieces(axes: _Axes, chosen: NDArray[np.bool_], lengths: Ints) -> tuple[Ints, Ints, Ints]:
        at = starts[chosen]
        from_offsets = _offsets(source, axes, source_blocks[chosen], at % source.block_tokens)
        to_offsets = _offsets(target, axes, target_blocks[chosen], at % target.block_tokens)
        return from_offsets.ravel(), to_offsets.ravel(), np.broadcast_to(lengths, from_offsets.shape).ravel()

    head_span = np.asarray([head_first], dtype=np.int64)
    if head_end - head_first == source.heads == target.heads:
        runs, run_layers = _layer_runs(target, layers)
        whole_axes = _Axes(layers=runs, kinds=_FIRST, heads=head_span)
        whole = pieces(whole_axes, is_whole, (run_layers * source.layer_bytes)[:, None, None, None])
    else:
        whole_axes = _Axes(layers=layers, kinds=_BOTH, heads=head_span)
        whole = pieces(whole_axes, is_whole, np.asarray((head_end - head_first) * source.head_bytes))
    split_axes = _Axes(layers=layers, kinds=_BOTH, heads=np.arange(head_first, head_end, dtype=np.int64))
    split_lengths = tokens[~is_whole] * (source.head_dim * source.dtype_bytes)
    split = pieces(split_axes, ~is_whole, split_lengths[None, :, None, None])
    return _merge(*(np.concatenate(pair) for pair in zip(whole, split, strict=True)))


def plan_bytes(*, source: KvGeometry, target: KvGeometry, group: int, tokens: int) -> int:
    """How many bytes the plans of `tokens` tokens of a layer group move in all: sums need no ranges."""
    head_first = max(source.rank * source.heads, target.rank * target.heads)
    head_end = min((source.rank + 1) * source.heads, (target.rank + 1) * target.heads)
    layers = len(source.layers_of(group))
    return tokens * layers * K_AND_V * max(0, head_end - head_first) * source.head_dim * source.dtype_bytes


def block_ranges(geometry: KvGeometry, blocks: Sequence[BlockId]) -> Descriptors:
    """Every byte of `blocks`, in all layer groups: what a receiver allows a sender to write.

    `source` equals `target`. Raises InvalidRequestError if a block does not exist.
    """
    ids = _checked(geometry, blocks, field="blocks")
    groups = np.arange(geometry.groups, dtype=np.int64)
    sizes = np.asarray([geometry.block_bytes(group) for group in range(geometry.groups)], dtype=np.int64)
    bases = groups * (geometry.group_layers * geometry.layer_bytes * geometry.blocks)
    offsets = (bases[:, None] + ids[None, :] * sizes[:, None]).ravel()
    return _merge(offsets, offsets, np.repeat(sizes, len(ids)))


def _segments(source: KvGeometry, target: KvGeometry, span: Span) -> tuple[Ints, Ints]:
    """Where each segment starts, and its length in tokens."""
    if not 0 <= span.first <= span.end:
        problem = f"is [{span.first}, {span.end})"
        raise InvalidRequestError(field="span", problem=problem, remedy="give 0 <= first <= end")
    if span.first == span.end:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    edges = [
        np.arange(-(-span.first // size) * size, span.end, size, dtype=np.int64)
        for size in {source.block_tokens, target.block_tokens}
    ]
    cuts = np.unique(np.concatenate([np.asarray([span.first, span.end], dtype=np.int64), *edges]))
    return cuts[:-1], np.diff(cuts)


def _blocks_at(geometry: KvGeometry, blocks: Sequence[BlockId], starts: Ints, *, end: int, field: str) -> Ints:
    if len(blocks) < geometry.blocks_for(end):
        problem = f"holds {len(blocks)} blocks of {geometry.block_tokens} tokens"
        raise InvalidRequestError(field=field, problem=problem, remedy=f"give enough blocks for {end} tokens")
    return _checked(geometry, blocks, field=field)[starts // geometry.block_tokens]


def _checked(geometry: KvGeometry, blocks: Sequence[BlockId], *, field: str) -> Ints:
    ids = np.asarray(blocks, dtype=np.int64)
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < geometry.blocks:
        problem = f"names block {int(ids.min())} or {int(ids.max())}"
        raise InvalidRequestError(field=field, problem=problem, remedy=f"name blocks below {geometry.blocks}")
    return ids


def _offsets(geometry: KvGeometry, axes: _Axes, blocks: Ints, tokens: Ints) -> Ints:
    """Byte offsets of pieces, [layer][segment][K/V][head]; `tokens` counts within the block."""
    groups = axes.layers // geometry.group_layers
    group_sizes = np.minimum(geometry.layers - groups * geometry.group_layers, geometry.group_layers)
    bases = groups * (geometry.group_layers * geometry.layer_bytes * geometry.blocks)
    within = (axes.layers - groups * geometry.group_layers) * geometry.layer_bytes
    by_block = blocks[None, :] * (group_sizes * geometry.layer_bytes)[:, None]
    by_token = tokens * (geometry.head_dim * geometry.dtype_bytes)
    by_segment = (bases + within)[:, None] + by_block + by_token[None, :]
    by_head = (axes.heads - geometry.rank * geometry.heads) * geometry.head_bytes
    by_kind = axes.kinds * (geometry.heads * geometry.head_bytes)
    return np.asarray(by_segment[:, :, None, None] + by_kind[None, None, :, None] + by_head, dtype=np.int64)


def _layer_runs(target: KvGeometry, layers: Ints) -> tuple[Ints, Ints]:
    """First layer and length of each run of `layers` that the target keeps in one group."""
    starts = np.unique(layers // target.group_layers, return_index=True)[1]
    return layers[starts], np.diff(np.append(starts, len(layers)))


def _merge(source: Ints, target: Ints, length: Ints) -> Descriptors:
    """Join neighbours that are adjacent on both sides; the order of bytes stays."""
    if len(length) == 0:
        return Descriptors(source, target, length)
    joins = (source[:-1] + length[:-1] == source[1:]) & (target[:-1] + length[:-1] == target[1:])
    starts = np.flatnonzero(np.append(True, ~joins))
    return Descriptors(source[starts], target[starts], np.add.reduceat(length, starts))
