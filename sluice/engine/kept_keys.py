"""Keeps what a batch of decodes gathered from the pool, so that the next step need not gather it again.

On a CPU, gathering reads and writes every key and value once more than attention needs: a third of
a decode step. While the same sequences decode together each step adds one token to each, so the
gathered copy is extended instead. Any change of the batch drops the copy; the pool stays the only
truth. Never used on a GPU, whose memory is for blocks. Next: `input_builder.py`, the only maker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from sluice.domain.kv import K_AND_V, KvGeometry
from sluice.engine.sequence import LiveSequence

KEPT_BYTES_MAX: Final = 1 << 30
"""Memory for all copies; decodes that do not fit are gathered in every step."""

GROWTH_TOKENS: Final = 128
"""Room beyond the longest sequence when a copy is made: how many steps it can last."""


@dataclass(frozen=True, slots=True)
class KeptKeys:
    """One decode group's copy as one step sees it.

    `layers[i]` is [sequences, 2, heads, capacity, head_dim]. If `is_filled` it holds all tokens but
    the step's own, whose K goes to `rows` of the copy's token rows and whose V `value_offset` rows
    further; else the step gathers into it.
    """

    layers: tuple[torch.Tensor, ...]
    keys: int
    is_filled: bool
    rows: torch.Tensor  # [sequences * heads]
    value_offset: int

    def extended(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the step's [sequences, heads, head_dim]; returns all K and V, [sequences, heads, keys, head_dim] each."""
        copy = self.layers[layer]
        rows = copy.view(-1, copy.shape[-1])
        rows.index_copy_(0, self.rows, keys.reshape(-1, copy.shape[-1]))
        rows[self.value_offset :].index_copy_(0, self.rows, values.reshape(-1, copy.shape[-1]))
        return copy[:, 0, :, : self.keys], copy[:, 1, :, : self.keys]

    @property
    def capacity(self) -> int:
        """Tokens of a sequence there is room for."""
        return self.layers[0].shape[3]

    def filled(self, layer: int, heads: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather `rows` of the pool's `heads` into a layer's copy, all of its room; returns as `extended` does.

        Straight into the copy, because a sequence that has just moved here waits for this.
        """
        copy = self.layers[layer]
        torch.index_select(heads, 0, rows, out=copy.view(-1, heads.shape[-1]))
        return copy[:, 0, :, : self.keys], copy[:, 1, :, : self.keys]


@dataclass(slots=True)
class _Slot:
    """The copy of the group at one place of the step's order, and whose tokens it holds up to where."""

    storage: list[torch.Tensor]  # per layer, flat
    sequences: list[LiveSequence]
    ends: list[int]
    capacity: int


class KeyKeeper:
    """The copies of all decode groups. One step uses slots 0, 1, … in order, then calls end_step()."""

    def __init__(self, *, geometry: KvGeometry, dtype: torch.dtype) -> None:
        self._geometry = geometry
        self._dtype = dtype
        self._slots: list[_Slot] = []
        self._used = 0
        self._spare: list[torch.Tensor] = []  # a dropped slot's memory, per layer

    def keep(self, sequences: Sequence[LiveSequence], ends: Sequence[int], *, keys: int) -> KeptKeys | None:
        """The copy for a group that decodes tokens ends[i] - 1 and attends over `keys`; None if there is no room."""
        geometry = self._geometry
        slot = self._slots[self._used] if self._used < len(self._slots) else None
        is_filled = (
            slot is not None
            and keys <= slot.capacity
            and slot.sequences == list(sequences)
            and all(end == before + 1 for end, before in zip(ends, slot.ends, strict=True))
        )
        if not is_filled:
            slot = self._make_slot(len(sequences), keys)
            if slot is None:
                return None
        assert slot is not None
        slot.sequences, slot.ends = list(sequences), list(ends)
        self._used += 1
        shape = (len(sequences), K_AND_V, geometry.heads, slot.capacity, geometry.head_dim)
        size = int(np.prod(shape))
        places = np.array(ends)[:, None] - 1 + np.arange(geometry.heads) * slot.capacity
        rows = places + np.arange(len(sequences))[:, None] * (K_AND_V * geometry.heads * slot.capacity)
        return KeptKeys(
            layers=tuple(layer[:size].view(shape) for layer in slot.storage),
            keys=keys,
            is_filled=is_filled,
            rows=torch.from_numpy(rows.reshape(-1)),
            value_offset=geometry.heads * slot.capacity,
        )

    def end_step(self) -> None:
        """Forget groups that were not part of this step: their sequences may move on without us."""
        for slot in self._slots[self._used :]:
            self._put_by(slot.storage)
        del self._slots[self._used :]
        self._used = 0

    def clear(self) -> None:
        """Forget everything, memory included: some of it may be NaN, which masks do not hide."""
        self._slots.clear()
        self._spare = []

    def _make_slot(self, sequences: int, keys: int) -> _Slot | None:
        """A slot at the current place with room for `keys` and more, in memory that was used before if it can be."""
        geometry = self._geometry
        blocks = geometry.blocks_for(keys + GROWTH_TOKENS)
        capacity = blocks * geometry.block_tokens
        elements = sequences * K_AND_V * geometry.heads * capacity * geometry.head_dim
        if self._used < len(self._slots):
            self._put_by(self._slots.pop(self._used).storage)
        storage = self._storage(elements)
        if storage is None:
            return None
        slot = _Slot(storage=storage, sequences=[], ends=[], capacity=capacity)
        self._slots.insert(self._used, slot)
        return slot

    def _storage(self, elements: int) -> list[torch.Tensor] | None:
        """Memory for `elements` of every layer: the spare one if it is large enough, else new. None without room.

        New memory costs several times what filling it does: its pages are touched for the first
        time. So sizes are rounded up to powers of two, which makes memory that fits likely.
        """
        if self._spare and self._spare[0].numel() >= elements:
            storage, self._spare = self._spare, []
            return storage
        self._spare = []
        used_bytes = sum(layer.nbytes for slot in self._slots for layer in slot.storage)
        layer_bytes_max = (KEPT_BYTES_MAX - used_bytes) // self._geometry.layers
        rounded = min(1 << (elements - 1).bit_length(), layer_bytes_max // self._geometry.dtype_bytes)
        if rounded < elements:
            return None
        return [torch.empty(rounded, dtype=self._dtype) for _ in range(self._geometry.layers)]

    def _put_by(self, storage: list[torch.Tensor]) -> None:
        """Keep the larger one of what is spare."""
        if not self._spare or storage[0].numel() > self._spare[0].numel():
            self._spare = storage
