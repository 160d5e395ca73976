"""What every byte mover must do. Backends: inproc, shm, tcp, nixl; `mover.py` drives them.

A transport writes ranges of one local region into one peer's region (push). It knows offsets
and lengths, nothing of tokens or layers: `plan.py` makes those. One thread owns a transport;
`allow` and `revoke` alone may be called from any thread, so that a receiver never waits for it.

    submit ---> ACTIVE ---> DONE        every byte is in the peer's region
                   |------> FAILED      it is not, and nothing more will be written
                   `--abandon--> QUARANTINED ---> DONE | FAILED

Law L4: transports cannot cancel reliably. After `abandon` neither side may reuse the memory
until poll() has returned a terminal state for the transfer.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sluice.domain.ids import BootId, WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A worker's registered KV memory: one contiguous range of bytes.

    `view` is writable memory for regions in main memory and None for device memory.
    `shm_name` names the POSIX shared memory that backs it, if any.
    """

    address: int
    size_bytes: int
    device: str  # "cpu" or "cuda:0"
    view: memoryview | None
    shm_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """What one incarnation of a worker tells its peers so that they can write to it."""

    worker: WorkerId
    boot: BootId
    region_bytes: int
    infos: tuple[tuple[str, bytes], ...]  # backend name -> that backend's own connection data


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Byte ranges to copy: source offset, destination offset, length. Equal-length int64 arrays."""

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    length: NDArray[np.int64]

    @property
    def total_bytes(self) -> int:
        return int(self.length.sum())

    def __len__(self) -> int:
        return len(self.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """One write of many ranges into a peer's region.

    `grant` is the secret the receiver gave with its reservation; a backend whose receiver runs
    code checks it and the ranges before writing (tcp); others fence by quarantine alone.
    """

    push: int  # chosen by the caller, unique per transport
    peer: BootId
    grant: bytes
    descriptors: Descriptors


class PushState(Enum):
    """Where a push is; DONE and FAILED are terminal."""

    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """A terminal state of one push, and why it failed."""

    push: int
    state: PushState
    reason: str = ""
    seconds: float = 0.0  # from submit to terminal


class Transport(Protocol):
    """One way of writing into other workers' regions, and of letting them write into ours."""

    @property
    def name(self) -> str: ...

    def register(self, region: Region) -> None:
        """Make `region` the local memory; once, before anything else. It stays mapped until close()."""
        ...

    def local_info(self) -> bytes:
        """This backend's connection data for PeerInfo.infos."""
        ...

    def can_reach(self, peer: PeerInfo) -> bool:
        """Whether this backend could serve `peer`, judged without blocking."""
        ...

    def connect(self, peer: PeerInfo) -> None:
        """Prepare to write to `peer`. Raises TransferError; idempotent for one incarnation."""
        ...

    def disconnect(self, boot: BootId) -> None:
        """Forget a peer. Its active pushes fail. Unknown peers are ignored."""
        ...

    def submit(self, push: Push) -> None:
        """Start a push to a connected peer; the local bytes must not change until it is terminal."""
        ...

    def abandon(self, push: int) -> None:
        """Stop caring; poll() still reports the terminal state when memory is safe again."""
        ...

    def poll(self) -> list[PushResult]:
        """Terminal states reached since the last call; each push appears exactly once."""
        ...

    def allow(self, *, grant: bytes, ranges: Descriptors, lease_s: float) -> None:
        """As receiver: whoever presents `grant` may write the `target` ranges, until `lease_s` is over or revoke()."""
        ...

    def renew(self, grant: bytes, *, lease_s: float) -> None:
        """As receiver: the grant lasts for another `lease_s` at least. Unknown ones and ended ones stay so."""
        ...

    def revoke(self, grant: bytes) -> bool:
        """As receiver: the grant ends. True if no write under it can still be running (memory is safe)."""
        ...

    def close(self) -> None:
        """Stop threads, close sockets, unregister. Idempotent."""
        ...
