"""How much work a router takes on: a bounded queue, and when to come back if it is full.

Decides whether a newcomer may wait, who is next and whose patience ended. Never places
anything and reads no clock. Later policies order the queue by SLO; this one is first come,
first served, with sequences that lost their worker at the front.
Next: `router/dispatcher.py`.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sluice.errors import OverloadedError

RETRY_AFTER_MIN_S: Final = 1.0
RETRY_AFTER_MAX_S: Final = 60.0
_SMOOTHING: Final = 0.1

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """Bounds of the queue and of what runs beyond it."""

    queue_sequences_max: int
    queue_tokens_max: int
    inflight_sequences_max: int
    queue_timeout_s: float


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    item: T
    tokens: int
    until_s: float


class AdmissionQueue(Generic[T]):
    """Sequences that wait for a worker. Not thread-safe."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._queue: deque[_Waiting[T]] = deque()
        self._tokens = 0
        self._last_left_s: float | None = None
        self._interval_s = 0.01  # mean time between departures, smoothed

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def tokens(self) -> int:
        """Prompt tokens of all that wait."""
        return self._tokens

    def check(self, *, sequences: int, tokens: int, inflight_sequences: int) -> None:
        """Whether a request of this size may enter now. Raises OverloadedError with a time to retry after."""
        if inflight_sequences + sequences > self._limits.inflight_sequences_max:
            raise self._overloaded(f"the router serves {inflight_sequences} sequences, its limit")
        if self._queue and len(self._queue) + sequences > self._limits.queue_sequences_max:
            raise self._overloaded(f"{len(self._queue)} sequences are waiting, the limit")
        if self._queue and self._tokens + tokens > self._limits.queue_tokens_max:
            raise self._overloaded(f"{self._tokens} prompt tokens are waiting, the limit")

    def enter(self, item: T, *, tokens: int, now_s: float) -> None:
        """Wait at the end. The caller has passed check()."""
        self._queue.append(_Waiting(item, tokens, now_s + self._limits.queue_timeout_s))
        self._tokens += tokens

    def return_to_front(self, item: T, *, tokens: int, now_s: float) -> None:
        """Wait again, before everyone: the item lost its worker. Never refused."""
        self._queue.appendleft(_Waiting(item, tokens, now_s + self._limits.queue_timeout_s))
        self._tokens += tokens

    def first(self) -> T | None:
        """Who is next; it stays in the queue."""
        return self._queue[0].item if self._queue else None

    def take_first(self, *, now_s: float) -> None:
        """The first has been placed."""
        self._tokens -= self._queue.popleft().tokens
        if self._last_left_s is not None:
            self._interval_s += _SMOOTHING * (now_s - self._last_left_s - self._interval_s)
        # Gaps while nobody waited say nothing about the pace.
        self._last_left_s = now_s if self._queue else None

    def leave(self, item: T) -> bool:
        """Someone gave up waiting; True if it was here."""
        for waiting in self._queue:
            if waiting.item is item:
                self._queue.remove(waiting)
                self._tokens -= waiting.tokens
                return True
        return False

    def expired(self, *, now_s: float) -> list[T]:
        """Take out those who waited too long."""
        late = [waiting for waiting in self._queue if waiting.until_s <= now_s]
        for waiting in late:
            self._queue.remove(waiting)
            self._tokens -= waiting.tokens
        return [waiting.item for waiting in late]

    def wait_estimate_s(self) -> float:
        """How long a newcomer would wait, from the recent pace."""
        return len(self._queue) * self._interval_s

    def __iter__(self) -> Iterator[T]:
        return (waiting.item for waiting in self._queue)

    def _overloaded(self, what: str) -> OverloadedError:
        wait_s = min(max(self.wait_estimate_s(), RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)
        return OverloadedError(what, retry_after_s=wait_s)
