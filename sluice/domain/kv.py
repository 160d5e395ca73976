"""Where every KV byte lives: the geometry of one worker's pool, as plain numbers.

The pool is one region, laid out [layer group][block][layer][K/V][head][token][dim] (docs/adr/0002):
a block of one layer group is contiguous, so a handoff of equal block sizes moves one
descriptor per block and group, while groups of 4-8 layers still stream as they are computed.

Next: `kv_transfer/plan.py` maps one geometry onto another; `engine/kv_cache.py` makes the tensors.
"""

from dataclasses import dataclass
from typing import Final

from sluice.domain.block_hash import HASH_UNIT_TOKENS

K_AND_V: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KvGeometry:
    """Shape of one worker's KV pool. Sizes are in elements unless the name says bytes.

    `heads` counts this worker's KV heads: tensor-parallel rank `rank` of `ranks` holds the
    model's heads [rank * heads, (rank + 1) * heads). The last group may hold fewer layers.
    """

    layers: int
    group_layers: int
    heads: int
    head_dim: int
    block_tokens: int
    blocks: int
    dtype: str  # "float32", "bfloat16", "float16"
    dtype_bytes: int
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        assert self.block_tokens % HASH_UNIT_TOKENS == 0, "block size must be a multiple of the hash unit"
        assert min(self.layers, self.group_layers, self.heads, self.head_dim, self.blocks, self.dtype_bytes) > 0
        assert 0 <= self.rank < self.ranks

    @property
    def groups(self) -> int:
        """How many layer groups there are."""
        return -(-self.layers // self.group_layers)

    def layers_of(self, group: int) -> range:
        """The layers of `group`."""
        first = group * self.group_layers
        return range(first, min(first + self.group_layers, self.layers))

    @property
    def head_bytes(self) -> int:
        """One head's K (or V) of one block and layer: [token][dim]."""
        return self.block_tokens * self.head_dim * self.dtype_bytes

    @property
    def layer_bytes(self) -> int:
        """One layer's K and V of one block."""
        return K_AND_V * self.heads * self.head_bytes

    def block_bytes(self, group: int) -> int:
        """One block of `group`: contiguous in the region."""
        return len(self.layers_of(group)) * self.layer_bytes

    def group_offset(self, group: int) -> int:
        """Byte offset of `group` in the region."""
        return group * self.group_layers * self.layer_bytes * self.blocks

    @property
    def region_bytes(self) -> int:
        """Size of the whole pool."""
        return self.layers * self.layer_bytes * self.blocks

    @property
    def token_bytes(self) -> int:
        """KV of one token over all layers and this worker's heads."""
        return self.layers * K_AND_V * self.heads * self.head_dim * self.dtype_bytes

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_tokens)
