"""Keeps what a batch of decodes gathered from the pool, so that the next step need not gather it again.

On a CPU, gathering reads and writes every key and value once more than attention needs: a third of
a decode step. While sequences decode together each step adds one token to each, so the gathered
copy is extended instead. Who joins is gathered, who leaves is forgotten, and the others stay: a
sequence that moves to another worker costs its company nothing. The pool stays the only truth.
Never used on a GPU, whose memory is for blocks. Next: `input_builder.py`, the only maker.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import torch

from sluice.domain.kv import K_AND_V, KvGeometry
from sluice.engine.contract import always_ready
from sluice.engine.ready_memory import ReadyMemory, Wish
from sluice.engine.sequence import LiveSequence

KEPT_BYTES_MAX: Final = 1 << 30
"""Memory for all copies; decodes that do not fit are gathered in every step."""

GROWTH_TOKENS_MIN: Final = 128
GROWTH_TOKENS_SHARE: Final = 16
"""Room beyond the longest sequence when a copy is made, one token in so many: how many steps it can last.

When it is full all of it is gathered again, which takes longer the longer it is: so it grows with its length."""

GROWTH_SEQUENCES_SHARE: Final = 4
"""A copy has room for one more sequence in so many, and for one at least."""

EXPECTED_BYTES_MIN: Final = 1 << 20
"""Copies smaller than this are not made ready beforehand: touching their pages takes no time."""


class Decode(NamedTuple):
    """A sequence that computes its token `end` - 1."""

    sequence: LiveSequence
    end: int


@dataclass(frozen=True, slots=True)
class KeptKeys:
    """One decode group's copy as one step sees it.

    `layers[i]` is [sequences, 2, heads, capacity, head_dim]. It holds all tokens but the step's
    own, whose K goes to `rows` of the copy's token rows and whose V `value_offset` rows further.
    The sequences in the `fresh` runs [first, end) have just come: they are gathered first.
    """

    layers: tuple[torch.Tensor, ...]
    keys: int
    fresh: tuple[tuple[int, int], ...]
    rows: torch.Tensor  # [sequences * heads]
    value_offset: int

    @property
    def capacity(self) -> int:
        """Tokens of a sequence there is room for."""
        return self.layers[0].shape[3]

    def extended(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, *, heads: torch.Tensor, fresh_rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather who is fresh, add the step's [sequences, heads, head_dim]; returns all K and V.

        `fresh_rows` are rows of the pool's `heads` for all the room of the fresh sequences.
        Each result is [sequences, heads, keys, head_dim].
        """
        copy = self.layers[layer]
        done = 0
        for first, end in self.fresh:
            run = copy[first:end].view(-1, heads.shape[-1])
            torch.index_select(heads, 0, fresh_rows[done : done + len(run)], out=run)
            done += len(run)
        rows = copy.view(-1, copy.shape[-1])
        rows.index_copy_(0, self.rows, keys.reshape(-1, copy.shape[-1]))
        rows[self.value_offset :].index_copy_(0, self.rows, values.reshape(-1, copy.shape[-1]))
        return copy[:, 0, :, : self.keys], copy[:, 1, :, : self.keys]


@dataclass(frozen=True, slots=True)
class Placement:
    """The order in which a group's sequences stand in its copy; no copy if there is no room for one."""

    order: list[int]
    kept: KeptKeys | None


@dataclass(slots=True, eq=False)
class _Slot:
    """One group's copy, and whose tokens it holds up to where; `windows` are those whose layers have filled it."""

    storage: list[torch.Tensor]  # per layer, flat
    capacity: int
    row_elements: int  # of one sequence in one layer
    windows: frozenset[int | None]
    decodes: list[Decode]

    def rows_of(self, group: Sequence[Decode], windows: frozenset[int | None], *, keys: int) -> dict[int, int]:
        """By place in the group, the row of each sequence that is here and one token further; none without room."""
        has_room = keys <= self.capacity and len(group) * self.row_elements <= self.storage[0].numel()
        if windows != self.windows or not has_room:
            return {}
        rows = {decode.sequence: row for row, decode in enumerate(self.decodes)}
        found = ((index, rows.get(sequence), end) for index, (sequence, end) in enumerate(group))
        return {index: row for index, row, end in found if row is not None and self.decodes[row].end == end - 1}

    def take(self, group: Sequence[Decode], here: Mapping[int, int]) -> tuple[list[int], list[int]]:
        """Give every sequence of the group a row: who is `here` (see rows_of) keeps his if it can be.

        Returns which of the group stands in each row, and the rows of those who have just come.
        """
        order = {row: index for index, row in here.items() if row < len(group)}
        holes = [row for row in range(len(group)) if row not in order]
        for index, row in here.items():
            if row >= len(group):
                hole = holes.pop(0)
                order[hole] = index
                for layer in self.storage:
                    size = self.row_elements
                    layer[hole * size : (hole + 1) * size] = layer[row * size : (row + 1) * size]
        order.update(zip(holes, (index for index in range(len(group)) if index not in here), strict=True))
        placed = [order[row] for row in range(len(group))]
        self.decodes = [group[index] for index in placed]
        return placed, holes


class KeyKeeper:
    """The copies of all decode groups, arranged anew in every step."""

    def __init__(self, *, geometry: KvGeometry, dtype: torch.dtype, windows: Sequence[int | None]) -> None:
        """Copies are of all tokens: layers with a sliding window of `windows` use them up to its length."""
        self._geometry = geometry
        self._dtype = dtype
        self._windows = tuple(windows)
        self._slots: list[_Slot] = []
        self._spare: list[torch.Tensor] = []  # a dropped slot's memory, per layer
        self._ready = ReadyMemory()

    def expect(self, tokens: int) -> Callable[[], bool]:
        """A sequence of so many tokens is on its way: have memory for its copy ready when it comes.

        Returns what says whether it is, on any thread.
        """
        self._take_ready(needed=0)
        row = self._row_elements(self._capacity(tokens))
        row_bytes = row * self._geometry.dtype_bytes * self._geometry.layers
        has_spare = bool(self._spare) and self._spare[0].numel() >= row
        rounded = self._rounded(row, wished=2 * row)
        if row_bytes < EXPECTED_BYTES_MIN or has_spare or rounded is None:
            return always_ready
        return self._ready.make(Wish(layers=self._geometry.layers, elements=rounded, touched=row, dtype=self._dtype))

    def arrange(self, groups: Sequence[Sequence[Decode]]) -> list[Placement]:
        """Where the sequences of this step's groups stand; who is in none of them is forgotten."""
        wanted = [self._wanted(group) for group in groups]
        found: list[tuple[_Slot | None, dict[int, int]]] = []
        for group, (keys, windows) in zip(groups, wanted, strict=True):
            rows = [slot.rows_of(group, windows, keys=keys) for slot in self._slots]
            here = max(rows, key=len, default={})
            found.append((self._slots.pop(rows.index(here)) if here else None, here))
        for slot in self._slots:
            self._put_by(slot.storage)
        self._slots = [slot for slot, _ in found if slot is not None]
        placements = []
        for group, (keys, windows), (going_on, here) in zip(groups, wanted, found, strict=True):
            place = going_on or self._make_slot(len(group), windows, keys=keys)
            placements.append(self._place(place, group, here, keys=keys))
        return placements

    def clear(self) -> None:
        """Forget everything, memory included: some of it may be NaN, which masks do not hide."""
        self._slots.clear()
        self._spare = []

    def _wanted(self, group: Sequence[Decode]) -> tuple[int, frozenset[int | None]]:
        """How many keys a group attends over, and in layers of which windows over all of them."""
        longest = max(decode.end for decode in group)
        keys = self._geometry.blocks_for(longest) * self._geometry.block_tokens
        return keys, frozenset(window for window in self._windows if window is None or window >= longest)

    def _place(self, slot: _Slot | None, group: Sequence[Decode], here: Mapping[int, int], *, keys: int) -> Placement:
        geometry, count = self._geometry, len(group)
        if slot is None:
            return Placement(list(range(count)), None)
        order, fresh = slot.take(group, here)
        starts = [row for before, row in pairwise([-2, *fresh]) if row != before + 1]
        ends = [before + 1 for before, row in pairwise([*fresh, -2]) if row != before + 1]
        row_tokens = K_AND_V * geometry.heads * slot.capacity
        places = np.array([decode.end - 1 for decode in slot.decodes])[:, None]
        rows = places + np.arange(geometry.heads) * slot.capacity + np.arange(count)[:, None] * row_tokens
        shape = (count, K_AND_V, geometry.heads, slot.capacity, geometry.head_dim)
        size = int(np.prod(shape))
        kept = KeptKeys(
            layers=tuple(layer[:size].view(shape) for layer in slot.storage),
            keys=keys,
            fresh=tuple(zip(starts, ends, strict=True)),
            rows=torch.from_numpy(rows.reshape(-1)),
            value_offset=geometry.heads * slot.capacity,
        )
        return Placement(order, kept)

    def _make_slot(self, sequences: int, windows: frozenset[int | None], *, keys: int) -> _Slot | None:
        """A slot with room for `keys` of each sequence and more, in memory that was used before if it can be."""
        if not windows:
            return None
        capacity = self._capacity(keys)
        row_elements = self._row_elements(capacity)
        more = max(1, sequences // GROWTH_SEQUENCES_SHARE)
        storage = self._storage(sequences * row_elements, wished=(sequences + more) * row_elements)
        if storage is None:
            return None
        slot = _Slot(storage, capacity, row_elements, windows, [])
        self._slots.append(slot)
        return slot

    def _storage(self, elements: int, *, wished: int) -> list[torch.Tensor] | None:
        """Memory for `elements` of every layer: the spare one if it is large enough, else new. None without room.

        New memory costs several times what filling it does: its pages are touched for the first
        time. So sizes are rounded up to powers of two, which makes memory that fits likely.
        """
        if not self._spare or self._spare[0].numel() < elements:
            self._take_ready(needed=elements)
        if self._spare and self._spare[0].numel() >= elements:
            storage, self._spare = self._spare, []
            return storage
        self._spare = []
        rounded = self._rounded(elements, wished=wished)
        if rounded is None:
            return None
        return [torch.empty(rounded, dtype=self._dtype) for _ in range(self._geometry.layers)]

    def _rounded(self, elements: int, *, wished: int) -> int | None:
        """How much memory to ask for, for every layer; None if there is no room for `elements`."""
        used_bytes = sum(layer.nbytes for slot in self._slots for layer in slot.storage)
        layer_bytes_max = (KEPT_BYTES_MAX - used_bytes) // self._geometry.layers
        rounded = min(1 << (wished - 1).bit_length(), layer_bytes_max // self._geometry.dtype_bytes)
        return None if rounded < elements else rounded

    def _capacity(self, keys: int) -> int:
        """Room for each sequence in a copy that is made for so many keys."""
        growth = max(GROWTH_TOKENS_MIN, keys // GROWTH_TOKENS_SHARE)
        return self._geometry.blocks_for(keys + growth) * self._geometry.block_tokens

    def _row_elements(self, capacity: int) -> int:
        """One sequence's part of a layer's copy that has room for `capacity` tokens."""
        return K_AND_V * self._geometry.heads * capacity * self._geometry.head_dim

    def _take_ready(self, *, needed: int) -> None:
        if (made := self._ready.take(needed=needed)) is not None:
            self._put_by(made)

    def _put_by(self, storage: list[torch.Tensor]) -> None:
        """Keep the larger one of what is spare."""
        if not self._spare or storage[0].numel() > self._spare[0].numel():
            self._spare = storage
