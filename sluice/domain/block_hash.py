"""The chained hash that names prefixes: hashed once at ingress, compared everywhere.

One hash per HASH_UNIT_TOKENS tokens; hash i covers tokens [0, (i + 1) * unit), because it
chains over hash i - 1. A worker whose blocks hold k units uses every k-th hash, so pools
with different block sizes share one index. The chain starts from the model's fingerprint
and the tenant's salt: equal tokens of two models or two tenants never share a hash.

Next: `engine/prefix_cache.py` and `policy/prefix_index.py`.
"""

import hashlib
from array import array
from collections.abc import Sequence
from typing import Final

from sluice.domain.ids import BlockHash

HASH_UNIT_TOKENS: Final = 16
"""Every worker's block size is a multiple of this."""

HASH_BYTES: Final = 16


def root_hash(*, model_fingerprint: str, salt: str) -> BlockHash:
    """The start of a chain: what must agree before two prefixes may be shared."""
    seed = f"{len(model_fingerprint)}:{model_fingerprint}{salt}".encode()
    return BlockHash(hashlib.blake2b(seed, digest_size=HASH_BYTES).digest())


def extend_chain(parent: BlockHash, tokens: Sequence[int]) -> list[BlockHash]:
    """Hashes of every full unit of `tokens`, which follow the prefix named by `parent`.

    A last, partial unit gets no hash. Token ids are hashed as unsigned 32-bit integers.
    """
    packed = array("I", tokens).tobytes()
    width = HASH_UNIT_TOKENS * 4
    hashes: list[BlockHash] = []
    for start in range(0, len(packed) - width + 1, width):
        digest = hashlib.blake2b(packed[start : start + width], digest_size=HASH_BYTES, key=parent).digest()
        parent = BlockHash(digest)
        hashes.append(parent)
    return hashes


def hashes_of_blocks(unit_hashes: Sequence[BlockHash], *, block_tokens: int) -> list[BlockHash]:
    """The hashes at the ends of full blocks of `block_tokens` tokens."""
    assert block_tokens % HASH_UNIT_TOKENS == 0, "block size must be a multiple of the hash unit"
    step = block_tokens // HASH_UNIT_TOKENS
    return list(unit_hashes[step - 1 :: step])
