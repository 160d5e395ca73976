"""Decides how long a peer may count on something held for it.

A lease lasts a duration from the moment it is granted or renewed, on the holder's clock alone:
durations cross the wire, timestamps never do (law L5). Renewals come in batches, one message for
all of a peer's leases; whoever asks too late is told which ones are gone.

    grant --> LIVE --renew--> LIVE --release--> gone
                `--expire(now_s)--------------> gone, and named once to the caller

Pure: reads no clock, frees nothing. Next: `handoff.py` for what an expiry means.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from sluice.errors import OverloadedError

LEASE_S: Final = 30.0
RENEW_EVERY_S: Final = 5.0
EXTENSION_S: Final = 20.0
LEASES_MAX: Final = 65_536

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True, kw_only=True)
class LeaseTable(Generic[Key]):
    """Leases by key. Each key is named by exactly one of: release(), expire(), or is still live."""

    lease_s: float = LEASE_S
    extension_s: float = EXTENSION_S
    leases_max: int = LEASES_MAX
    _ends_s: dict[Key, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._ends_s)

    def __contains__(self, key: Key) -> bool:
        return key in self._ends_s

    def grant(self, key: Key, *, now_s: float) -> None:
        """Start a lease. Raises OverloadedError if there are too many; a key is granted once at a time."""
        assert key not in self._ends_s, f"lease {key!r} is already granted"
        if len(self._ends_s) >= self.leases_max:
            raise OverloadedError(f"all {self.leases_max} leases are in use", retry_after_s=1)
        self._ends_s[key] = now_s + self.lease_s

    def renew(self, keys: Iterable[Key], *, now_s: float) -> tuple[Key, ...]:
        """Extend leases; returns the keys that are not live any more. Never shortens one.

        A lease past its end stays in the table until expire() names it, and cannot be renewed.
        """
        lost = []
        for key in keys:
            end_s = self._ends_s.get(key)
            if end_s is None or end_s <= now_s:
                lost.append(key)
            else:
                self._ends_s[key] = max(end_s, now_s + self.extension_s)
        return tuple(lost)

    def is_live(self, key: Key, *, now_s: float) -> bool:
        """Whether the lease runs at `now_s`."""
        return self._ends_s.get(key, now_s) > now_s

    def release(self, key: Key) -> bool:
        """End a lease early. False if it was not there."""
        return self._ends_s.pop(key, None) is not None

    def expire(self, *, now_s: float) -> tuple[Key, ...]:
        """Remove and return every lease whose end has come, in the order they were granted."""
        ended = tuple(key for key, end_s in self._ends_s.items() if end_s <= now_s)
        for key in ended:
            del self._ends_s[key]
        return ended
