"""The only reader of time: decisions take `now_s` as a number, edges take a Clock.

Never sleeps and never schedules. Tests and simulation use ManualClock.
"""

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """A source of seconds that only ever grow; two processes' readings are not comparable."""

    def now_s(self) -> float:
        """Seconds since an arbitrary start, monotonic within this process."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    def now_s(self) -> float:
        return time.monotonic()


@dataclass(slots=True)
class ManualClock:
    """A clock that moves only when told to."""

    current_s: float = 0.0

    def now_s(self) -> float:
        return self.current_s

    def advance(self, seconds: float) -> None:
        """Move forward; going back would break every deadline, so it is refused."""
        assert seconds >= 0, "a monotonic clock never goes back"
        self.current_s += seconds


def wall_ns() -> int:
    """Nanoseconds since the Unix epoch: for trace spans and response `created` fields only."""
    return time.time_ns()
