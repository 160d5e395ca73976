"""The KV pool as tensors: views over one region of bytes that somebody else may also map.

Knows the layout [layer group][block][layer][K/V][head][token][dim] (`domain/kv.py`) and how to
address it in rows. Never decides which block is whose: `block_pool.py` does. Next: `attention.py`.

Two ways of seeing one group's memory make every access one indexed copy of long rows:

    token rows  [n, head_dim]                 one token of one head: where new K and V are written
    head rows   [n, block_tokens * head_dim]  one block of one head: what attention gathers

Views are narrowed to start at one layer's K, so that one index, made once per step, serves all layers.
"""

from dataclasses import dataclass
from typing import Final

import torch

from sluice.domain.ids import BlockId
from sluice.domain.kv import K_AND_V, KvGeometry

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LayerView:
    """One layer's part of the pool. `group_layers` selects the row indices that fit it."""

    key_tokens: torch.Tensor  # [rows, head_dim], row 0 is block 0, this layer, K, head 0, token 0
    value_tokens: torch.Tensor  # the same for V
    heads: torch.Tensor  # [rows, block_tokens * head_dim], row 0 is block 0, this layer, K, head 0
    group: int
    group_layers: int
    is_last_of_group: bool


class KvCache:
    """Tensor views over one worker's KV region."""

    def __init__(self, *, geometry: KvGeometry, buffer: memoryview | None, device: torch.device) -> None:
        """Over `buffer` (writable, main memory, exactly the region's size), or over new memory on `device`.

        New memory is zeroed: rows beyond a sequence's end are gathered and masked, and a NaN that
        happened to lie there would survive a mask (0 times NaN is NaN).
        """
        self.geometry = geometry
        dtype = DTYPES[geometry.dtype]
        assert dtype.itemsize == geometry.dtype_bytes, "dtype and its size disagree"
        elements = geometry.region_bytes // geometry.dtype_bytes
        if buffer is None:
            self._region = torch.zeros(elements, dtype=dtype, device=device)
        else:
            assert device.type == "cpu", "a device cannot compute on a buffer in main memory"
            assert buffer.nbytes == geometry.region_bytes, "the buffer and the geometry differ in size"
            self._region = torch.frombuffer(buffer, dtype=dtype, count=elements)
        self.layers = tuple(self._view_of(layer) for layer in range(geometry.layers))

    @property
    def address(self) -> int:
        """Where the region starts, in the address space of `device`."""
        return self._region.data_ptr()

    @property
    def device(self) -> torch.device:
        """Where the region is."""
        return self._region.device

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """The different numbers of layers a group has here: one or two."""
        sizes = {len(self.geometry.layers_of(group)) for group in range(self.geometry.groups)}
        return tuple(sorted(sizes))

    def scrub(self, blocks: list[BlockId]) -> None:
        """Zero `blocks` in every layer: they may hold NaN, which a mask would not hide."""
        index = torch.tensor(blocks, dtype=torch.long, device=self.device)
        for group in range(self.geometry.groups):
            self._group(group).index_fill_(0, index, 0.0)

    def _group(self, group: int) -> torch.Tensor:
        """The memory of one layer group: [blocks, elements of a block]."""
        geometry = self.geometry
        start = geometry.group_offset(group) // geometry.dtype_bytes
        block = geometry.block_bytes(group) // geometry.dtype_bytes
        return self._region[start : start + block * geometry.blocks].view(geometry.blocks, block)

    def _view_of(self, layer: int) -> LayerView:
        geometry = self.geometry
        group = layer // geometry.group_layers
        layers = geometry.layers_of(group)
        memory = self._group(group).view(-1)
        head_rows = memory.view(-1, geometry.block_tokens * geometry.head_dim)
        token_rows = memory.view(-1, geometry.head_dim)
        first_head = (layer - layers.start) * K_AND_V * geometry.heads
        first_token = first_head * geometry.block_tokens
        return LayerView(
            key_tokens=token_rows[first_token:],
            value_tokens=token_rows[first_token + geometry.heads * geometry.block_tokens :],
            heads=head_rows[first_head:],
            group=group,
            group_layers=len(layers),
            is_last_of_group=layer == layers.stop - 1,
        )
