"""Knows which secret lets its bearer write which ranges, and fences writers that use it.

The receiver's half of inproc and tcp, where our own code writes into our own region. A writer
holds the grant's lock while it copies a piece; revoke() takes the same lock, so when it returns
no write under that grant is running and none will start. Shared memory is fenced by
`shm_control.py` instead. Never copies bytes. Next: `tcp_receiver.py`.
"""

import threading
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sluice.clock import Clock, SystemClock
from sluice.errors import OverloadedError
from sluice.kv_transfer.transport import Descriptors

GRANTS_MAX: Final = 65_536


@dataclass(slots=True, kw_only=True)
class Grant:
    """Disjoint, sorted ranges [starts, ends) that may be written while `is_open` and before `ends_s`, under `lock`."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    ends_s: float  # on the table's clock; a lease that is renewed moves it
    is_open: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    def covers(self, target: NDArray[np.int64], length: NDArray[np.int64]) -> bool:
        """Whether every range lies inside what was granted. Hostile numbers are simply not covered."""
        if len(target) == 0:
            return True
        if len(self.starts) == 0 or int(length.min()) <= 0 or int(length.max()) > int(self.ends[-1]):
            return False
        holder = np.searchsorted(self.starts, target, side="right") - 1
        if int(holder.min()) < 0:
            return False
        # By subtraction: target + length might overflow.
        return bool(np.all(length <= self.ends[holder] - target))


class GrantTable:
    """Open grants of one region, by secret. Callable from any thread."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._grants: dict[bytes, Grant] = {}

    def allow(self, *, grant: bytes, ranges: Descriptors, lease_s: float) -> None:
        """Open a grant for the `target` ranges, for `lease_s` or until renewed. Raises OverloadedError if too many."""
        order = np.argsort(ranges.target, kind="stable")
        starts, ends = ranges.target[order], (ranges.target + ranges.length)[order]
        if len(starts):
            first_of_run = np.flatnonzero(np.append(True, starts[1:] > np.maximum.accumulate(ends)[:-1]))
            starts, ends = starts[first_of_run], np.maximum.reduceat(ends, first_of_run)
        with self._lock:
            if len(self._grants) >= GRANTS_MAX:
                raise OverloadedError(f"all {GRANTS_MAX} grants are in use", retry_after_s=1)
            assert grant not in self._grants, "a grant is a fresh secret each time"
            self._grants[grant] = Grant(starts=starts, ends=ends, ends_s=self._clock.now_s() + lease_s)

    def renew(self, grant: bytes, *, lease_s: float) -> None:
        """The grant ends `lease_s` from now at the earliest. Unknown ones are ignored; a late renewal revives none."""
        found = self.find(grant)
        if found is not None:
            found.ends_s = max(found.ends_s, self._clock.now_s() + lease_s)

    def is_writable(self, grant: Grant) -> bool:
        """Whether a piece may be written now; asked under the grant's lock."""
        return grant.is_open and self._clock.now_s() < grant.ends_s

    def find(self, grant: bytes) -> Grant | None:
        """The grant's ranges, or None if it never was, was revoked or has run out."""
        with self._lock:
            found = self._grants.get(grant)
        return found if found is not None and self._clock.now_s() < found.ends_s else None

    def revoke(self, grant: bytes) -> bool:
        """End the grant; waits for at most the piece being copied. Always True: memory is safe."""
        with self._lock:
            found = self._grants.pop(grant, None)
        if found:
            with found.lock:
                found.is_open = False
        return True
