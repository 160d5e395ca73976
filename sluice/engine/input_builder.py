"""Turns a step's plan into index tensors, once, so that no layer has to look at a sequence.

Vectorised over tokens with numpy; the only loops over sequences copy their tokens and block
tables. Decides only which sequences are padded together (`attention_groups.py`). Next:
`attention.py`, which uses the result in every layer.
"""

from collections.abc import Callable, Sequence
from itertools import chain, pairwise, zip_longest
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from sluice.domain.kv import K_AND_V
from sluice.engine.attention_groups import cut
from sluice.engine.contract import KvSpan, always_ready
from sluice.engine.image_inputs import ImageShape, image_rows, step_positions, token_ids_without_images
from sluice.engine.kept_keys import Decode, KeptKeys, KeyKeeper
from sluice.engine.kv_cache import KvCache
from sluice.engine.step_inputs import AttentionGroup, KeyView, StepInputs
from sluice.engine.step_plan import StepPlan, Work

Ints = NDArray[np.int64]

DECODE_CALL_PAIRS: Final = 512
PREFILL_CALL_PAIRS: Final = 4096
"""How many (query, key) pairs cost as much as one more attention call: measured on one CPU core
with 8 heads of 64; see benchmarks/engine.py. Reading keys dominates a decode, so pairs are dearer."""

GPU_CALL_PAIRS_FACTOR: Final = 64
"""A GPU computes this many more pairs while Python prepares a call."""


class InputBuilder:
    """Builds StepInputs for one KV pool and one model's sliding windows."""

    def __init__(
        self,
        *,
        cache: KvCache,
        dtype: torch.dtype,
        windows: Sequence[int | None],
        image_shape: ImageShape | None = None,
    ) -> None:
        """With `image_shape`, prompts may hold images of it."""
        self._cache = cache
        self._image_shape = image_shape
        self._dtype = dtype
        self._windows = tuple(windows)
        self._device = cache.device
        self._keeper: KeyKeeper | None = None
        if cache.device.type == "cpu":
            self._keeper = KeyKeeper(geometry=cache.geometry, dtype=dtype, windows=self._windows)
        factor = 1 if cache.device.type == "cpu" else GPU_CALL_PAIRS_FACTOR
        self._decode_call_pairs = DECODE_CALL_PAIRS * factor
        self._prefill_call_pairs = PREFILL_CALL_PAIRS * factor

    def build(self, plan: StepPlan) -> StepInputs:
        """The inputs of one forward pass over `plan`, which has work."""
        decodes = sorted(plan.decodes, key=_shape, reverse=True)
        prefills = sorted(plan.prefills, key=_shape, reverse=True)
        decode_ends = cut([_shape(work) for work in decodes], call_pairs=self._decode_call_pairs)
        prefill_ends = cut([_shape(work) for work in prefills], call_pairs=self._prefill_call_pairs)
        decodes, kept = self._arranged(decodes, decode_ends)
        works = decodes + prefills
        cuts = [0, *decode_ends, *(len(decodes) + end for end in prefill_ends)]
        packed = _Packed(works, block_tokens=self._cache.geometry.block_tokens)
        shape = self._image_shape
        sampling = [index for index, work in enumerate(works) if work.samples]
        groups = tuple(
            self._group(packed, first, end, copy) for (first, end), copy in zip_longest(pairwise(cuts), kept)
        )
        return StepInputs(
            token_ids=self._tensor(packed.tokens if shape is None else token_ids_without_images(packed.tokens))[None],
            positions=self._tensor(
                packed.positions[None] if shape is None else step_positions(works, packed.positions, shape=shape)
            ),
            sample_rows=self._tensor(packed.starts[1:][sampling] - 1),
            sampled=tuple(works[index].sequence for index in sampling),
            write_rows=self._write_rows(packed),
            groups=groups,
            held_spans=tuple(_span(work) for work in works if work.sequence.hold),
            images=None if shape is None else image_rows(works, shape, device=self._device),
        )

    def _arranged(self, decodes: list[Work], ends: Sequence[int]) -> tuple[list[Work], list[KeptKeys | None]]:
        """The decodes of each group in the order of the group's copy, and the copies."""
        if self._keeper is None:
            return decodes, []
        groups = [decodes[first:end] for first, end in pairwise([0, *ends])]
        placements = self._keeper.arrange([[Decode(work.sequence, work.end) for work in group] for group in groups])
        ordered = [group[index] for group, placed in zip(groups, placements, strict=True) for index in placed.order]
        return ordered, [placed.kept for placed in placements]

    def expect(self, tokens: int) -> Callable[[], bool]:
        """A sequence of so many tokens will decode here soon; returns what says whether all is ready for it."""
        return always_ready if self._keeper is None else self._keeper.expect(tokens)

    def forget_kept(self) -> None:
        """Drop copies of keys that may hold NaN."""
        if self._keeper is not None:
            self._keeper.clear()

    def _tensor(self, array: Ints) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)

    def _write_rows(self, packed: "_Packed") -> dict[int, torch.Tensor]:
        """Rows of LayerView.key_tokens for every (token, head)."""
        geometry = self._cache.geometry
        blocks = packed.tables[packed.owners, packed.positions // geometry.block_tokens]
        offsets = packed.positions % geometry.block_tokens
        heads = np.arange(geometry.heads) * geometry.block_tokens
        rows: dict[int, torch.Tensor] = {}
        for layers in self._cache.group_sizes:
            block_rows = layers * K_AND_V * geometry.heads * geometry.block_tokens
            rows[layers] = self._tensor(((blocks * block_rows + offsets)[:, None] + heads).reshape(-1))
        return rows

    def _group(self, packed: "_Packed", first: int, end: int, kept: KeptKeys | None) -> AttentionGroup:
        """The group of sequences [first, end) of the packed ones, and the copy of their keys, if there is one."""
        counts = packed.counts[first:end]
        begin, queries = int(packed.starts[first]), int(counts.max())
        steps = np.minimum(np.arange(queries), counts[:, None] - 1)  # [sequences, queries]
        query_positions = packed.firsts[first:end, None] + steps
        pad = unpad = None
        if counts.min() < queries:
            rows = (packed.starts[first:end, None] - begin) + steps
            pad = self._tensor(rows.reshape(-1))
            unpad = self._tensor(np.flatnonzero(np.arange(queries) < counts[:, None]))
        views: dict[int | None, KeyView] = {}
        longest = int(packed.ends[first:end].max())
        for window in self._windows:
            effective = None if window is None or window >= longest else window
            if effective not in views:
                copy = kept if effective is None else None
                views[effective] = self._key_view(packed, first, end, query_positions, window=effective, kept=copy)
            views[window] = views[effective]
        return AttentionGroup(
            first=begin,
            end=int(packed.starts[end]),
            sequences=end - first,
            queries=queries,
            is_fresh=end - first == 1 and int(packed.firsts[first]) == 0 and queries > 1,
            pad=pad,
            unpad=unpad,
            views=views,
        )

    def _key_view(
        self,
        packed: "_Packed",
        first: int,
        end: int,
        query_positions: Ints,
        *,
        window: int | None,
        kept: KeptKeys | None,
    ) -> KeyView:
        """The keys of sequences [first, end), from the block of the first key in the window on."""
        geometry = self._cache.geometry
        starts = np.zeros(end - first, dtype=np.int64)
        if window is not None:
            starts = np.maximum(packed.firsts[first:end] - window + 1, 0) // geometry.block_tokens
        blocks_most = int((-(-packed.ends[first:end] // geometry.block_tokens) - starts).max())
        columns = starts[:, None] + np.arange(blocks_most)
        key_positions = (columns[:, :, None] * geometry.block_tokens + np.arange(geometry.block_tokens)).reshape(
            end - first, -1
        )
        mask = self._mask(self._tensor(query_positions), self._tensor(key_positions), window)
        tables = packed.tables[first:end]
        if kept is None:
            return KeyView(head_rows=self._head_rows(tables, columns), mask=mask)
        fresh = [row for run in kept.fresh for row in range(*run)]
        room = np.arange(kept.capacity // geometry.block_tokens)[None]
        return KeyView(head_rows=self._head_rows(tables[fresh], room), mask=mask, kept=kept)

    def _head_rows(self, tables: Ints, columns: Ints) -> dict[int, torch.Tensor]:
        """Rows of LayerView.heads for `columns` of the block tables; beyond a table's end its last block stands."""
        inside = np.broadcast_to(np.minimum(columns, tables.shape[1] - 1), (len(tables), columns.shape[1]))
        blocks = np.take_along_axis(tables, inside, axis=1)  # [sequences, columns]
        heads = np.arange(K_AND_V * self._cache.geometry.heads)
        return {
            layers: self._tensor((blocks[:, None, :] * (layers * len(heads)) + heads[:, None]).reshape(-1))
            for layers in self._cache.group_sizes
        }

    def _mask(self, queries: torch.Tensor, keys: torch.Tensor, window: int | None) -> torch.Tensor:
        """[sequences, 1, queries, keys]: 0 where a query may see a key, else -infinity.

        Keys beyond a sequence's end lie after its last query, so causality hides them too.
        """
        hidden = keys[:, None, :] > queries[:, :, None]
        if window is not None:
            hidden |= keys[:, None, :] <= (queries - window)[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(hidden, -torch.inf)[:, None]


class _Packed:
    """The works of a step side by side, as arrays.

    Per sequence: `sequences`, `firsts`, `ends` (of the computed tokens), `counts`, `tables` [sequences, blocks];
    `starts` [sequences + 1] in the packed row. Per token: `tokens`, `positions`, `owners`.
    """

    def __init__(self, works: Sequence[Work], *, block_tokens: int) -> None:
        count = len(works)
        self.sequences = [work.sequence for work in works]
        self.firsts: Ints = np.fromiter((work.first for work in works), np.int64, count)
        self.ends: Ints = np.fromiter((work.end for work in works), np.int64, count)
        self.counts: Ints = self.ends - self.firsts
        self.starts: Ints = np.zeros(count + 1, dtype=np.int64)
        np.cumsum(self.counts, out=self.starts[1:])
        total = int(self.starts[-1])
        self.owners: Ints = np.repeat(np.arange(count), self.counts)
        self.positions: Ints = np.arange(total) + np.repeat(self.firsts - self.starts[:-1], self.counts)
        chunks = chain.from_iterable(work.sequence.tokens[work.first : work.end] for work in works)
        self.tokens: Ints = np.fromiter(chunks, np.int64, total)
        widest = int(-(-self.ends.max() // block_tokens))
        self.tables: Ints = np.zeros((count, widest), dtype=np.int64)
        for row, work in enumerate(works):
            blocks = work.sequence.blocks[:widest]
            self.tables[row, : len(blocks)] = blocks
            # Padding is masked, but a mask does not hide NaN: so it is the sequence's own block.
            self.tables[row, len(blocks) :] = blocks[-1]


def _shape(work: Work) -> tuple[int, int]:
    return work.tokens, work.end


def _span(work: Work) -> KvSpan:
    sequence = work.sequence
    return KvSpan(sequence=sequence.sequence, first=work.first, end=work.end, blocks=tuple(sequence.blocks))
