"""Counts the bytes that may not be reused because someone may still read or write them.

Two kinds: pushes abandoned before they were terminal (our source blocks, and the peer's), and
grants revoked while a writer may still be running (our target blocks). Law L4 bounds the sum; who
finds `is_over_bound` restarts the worker, the only true fence left. Frees nothing itself.
Next: `mover.py`.
"""

import threading
from dataclasses import dataclass, field
from typing import Final

BOUND_FRACTION: Final = 0.1


@dataclass(slots=True, kw_only=True)
class Quarantine:
    """Accounts of one region. Callable from any thread."""

    region_bytes: int
    bound_fraction: float = BOUND_FRACTION
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pushes: dict[int, int] = field(default_factory=dict)
    _open: dict[bytes, int] = field(default_factory=dict)
    _revoked: dict[bytes, int] = field(default_factory=dict)

    def push_abandoned(self, push: int, *, total_bytes: int) -> None:
        with self._lock:
            self._pushes[push] = total_bytes

    def push_ended(self, push: int) -> None:
        with self._lock:
            self._pushes.pop(push, None)

    def grant_opened(self, grant: bytes, *, total_bytes: int) -> None:
        with self._lock:
            self._open[grant] = total_bytes

    def grant_revoked(self, grant: bytes) -> None:
        """A writer may still be running."""
        with self._lock:
            self._revoked[grant] = self._open.pop(grant, 0) or self._revoked.get(grant, 0)

    def grant_ended(self, grant: bytes) -> None:
        """No writer is running any more."""
        with self._lock:
            self._open.pop(grant, None)
            self._revoked.pop(grant, None)

    @property
    def total_bytes(self) -> int:
        """Bytes in quarantine now, as sender and as receiver."""
        with self._lock:
            return sum(self._pushes.values()) + sum(self._revoked.values())

    @property
    def is_over_bound(self) -> bool:
        """Whether more of the region is in quarantine than a worker may live with."""
        return self.total_bytes > self.bound_fraction * self.region_bytes
