"""The right to write into one reservation, and to commit it, as a token bound to a tenant.

A reservation answers with a fresh secret. What is presented with bytes and with the commit is
not the secret but what it makes of the tenant's root (the start of its hash chain, `domain/block_hash.py`):

    receiver: secret --bind(root it was asked for)--> token that opens these blocks until the lease ends
    sender:   secret --bind(root of the sequence)---> the same token, or one that opens nothing

So a token opens these blocks, for this tenant, for this long: which blocks and how long is what the
receiver keeps beside it (`grants.py`). Pure. Next: `grants.py`.
"""

import hashlib
import hmac
import secrets
from typing import Final

from sluice.domain.ids import BlockHash

SECRET_BYTES: Final = 16
TOKEN_BYTES: Final = 16
PURPOSE: Final = b"sluice-grant"


def fresh_secret() -> bytes:
    """Nobody can guess it; one for each reservation."""
    return secrets.token_bytes(SECRET_BYTES)


def bind(secret: bytes, *, root: BlockHash) -> bytes:
    """The token of whoever has been given `secret` and works for the tenant of `root`."""
    return hashlib.blake2b(root, digest_size=TOKEN_BYTES, key=secret, person=PURPOSE).digest()


def is_same(token: bytes, other: bytes) -> bool:
    """Whether two tokens are equal, in a time that tells nothing about where they differ."""
    return hmac.compare_digest(token, other)
