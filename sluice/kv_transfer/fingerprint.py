"""Decides whether two workers may exchange KV, and if not names the property that differs.

Equal model, layers, heads of the whole model, head size and dtype; block sizes in an integer
ratio. Tensor-parallel size, number of blocks and layers per group may differ: `plan.py` bridges
those. Pure: no I/O. Next: `plan.py`.
"""

from dataclasses import dataclass
from typing import TypeAlias

from sluice.domain.kv import KvGeometry
from sluice.errors import IncompatiblePeerError


@dataclass(frozen=True, slots=True, kw_only=True)
class KvIdentity:
    """What one side of a handshake says of its KV. `model_fingerprint` names weights and config."""

    model_fingerprint: str
    wire_version: int
    geometry: KvGeometry
    region_bytes: int


@dataclass(frozen=True, slots=True)
class Compatible:
    """The two may exchange KV."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incompatible:
    """They may not: `what` differs."""

    what: str
    ours: str
    theirs: str

    def __str__(self) -> str:
        return f"{self.what} differs: {self.ours} here, {self.theirs} there"


Verdict: TypeAlias = Compatible | Incompatible


def compare(ours: KvIdentity, theirs: KvIdentity) -> Verdict:
    """The first difference that makes an exchange impossible, in order of importance."""
    mine, other = ours.geometry, theirs.geometry
    properties: tuple[tuple[str, object, object], ...] = (
        ("wire version", ours.wire_version, theirs.wire_version),
        ("model fingerprint", ours.model_fingerprint, theirs.model_fingerprint),
        ("layers", mine.layers, other.layers),
        ("KV heads of the model", mine.heads * mine.ranks, other.heads * other.ranks),
        ("head size", mine.head_dim, other.head_dim),
        ("dtype", mine.dtype, other.dtype),
        ("bytes per element", mine.dtype_bytes, other.dtype_bytes),
    )
    for what, here, there in properties:
        if here != there:
            return Incompatible(what=what, ours=str(here), theirs=str(there))
    larger, smaller = max(mine.block_tokens, other.block_tokens), min(mine.block_tokens, other.block_tokens)
    if larger % smaller:
        what = "block size (tokens; one must be a multiple of the other)"
        return Incompatible(what=what, ours=str(mine.block_tokens), theirs=str(other.block_tokens))
    if theirs.region_bytes != other.region_bytes:
        what = "region size (bytes, announced and by geometry)"
        return Incompatible(what=what, ours=str(other.region_bytes), theirs=str(theirs.region_bytes))
    return Compatible()


def require_compatible(ours: KvIdentity, theirs: KvIdentity) -> None:
    """Raise IncompatiblePeerError with the reason unless the two may exchange KV."""
    verdict = compare(ours, theirs)
    if isinstance(verdict, Incompatible):
        raise IncompatiblePeerError(f"cannot exchange KV with this peer: {verdict}; run the same model and settings")
