"""How much work a router takes on: a bounded queue, and when to come back if it is full.

Decides whether a newcomer may wait and whose patience ended; `waiting_line.py` decides who is next.
Never places anything and reads no clock. Next: `waiting_line.py`, `router/dispatcher.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sluice.domain.slo import STANDARD, SloClass
from sluice.errors import OverloadedError
from sluice.policy.waiting_line import WaitingLine

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
class _Patience:
    tokens: int
    until_s: float


class AdmissionQueue(Generic[T]):
    """Sequences that wait for a worker. Not thread-safe."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._line: WaitingLine[T] = WaitingLine()
        self._patience: dict[int, _Patience] = {}  # by id() of the item
        self._tokens = 0
        self._last_left_s: float | None = None
        self._interval_s = 0.01  # mean time between departures, smoothed

    def __len__(self) -> int:
        return len(self._line)

    @property
    def tokens(self) -> int:
        """Prompt tokens of all that wait."""
        return self._tokens

    def check(self, *, sequences: int, tokens: int, inflight_sequences: int) -> None:
        """Whether a request of this size may enter now. Raises OverloadedError with a time to retry after."""
        if inflight_sequences + sequences > self._limits.inflight_sequences_max:
            raise self._overloaded(f"the router serves {inflight_sequences} sequences, its limit")
        if self._line and len(self._line) + sequences > self._limits.queue_sequences_max:
            raise self._overloaded(f"{len(self._line)} sequences are waiting, the limit")
        if self._line and self._tokens + tokens > self._limits.queue_tokens_max:
            raise self._overloaded(f"{self._tokens} prompt tokens are waiting, the limit")

    def enter(self, item: T, *, tokens: int, now_s: float, slo: SloClass = STANDARD, tenant: str = "") -> None:
        """Wait among one's class. The caller has passed check()."""
        self._line.enter(item, tokens=tokens, urgency=slo.urgency, tenant=tenant)
        self._note(item, tokens, now_s)

    def return_to_front(self, item: T, *, tokens: int, now_s: float) -> None:
        """Wait again, before everyone: the item lost its worker. Never refused."""
        self._line.return_to_front(item)
        self._note(item, tokens, now_s)

    def first(self) -> T | None:
        """Who is next; it stays in the queue."""
        return self._line.first()

    def take_first(self, *, now_s: float) -> None:
        """The first has been placed."""
        self._forget(self._line.take_first())
        if self._last_left_s is not None:
            self._interval_s += _SMOOTHING * (now_s - self._last_left_s - self._interval_s)
        # Gaps while nobody waited say nothing about the pace.
        self._last_left_s = now_s if self._line else None

    def leave(self, item: T) -> bool:
        """Someone gave up waiting; True if it was here."""
        if not self._line.leave(item):
            return False
        self._forget(item)
        return True

    def expired(self, *, now_s: float) -> list[T]:
        """Take out those who waited too long."""
        late = [item for item in self._line if self._patience[id(item)].until_s <= now_s]
        for item in late:
            self.leave(item)
        return late

    def wait_estimate_s(self) -> float:
        """How long a newcomer would wait, from the recent pace."""
        return len(self._line) * self._interval_s

    def __iter__(self) -> Iterator[T]:
        return iter(self._line)

    def _note(self, item: T, tokens: int, now_s: float) -> None:
        self._patience[id(item)] = _Patience(tokens, now_s + self._limits.queue_timeout_s)
        self._tokens += tokens

    def _forget(self, item: T) -> None:
        self._tokens -= self._patience.pop(id(item)).tokens

    def _overloaded(self, what: str) -> OverloadedError:
        wait_s = min(max(self.wait_estimate_s(), RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)
        return OverloadedError(what, retry_after_s=wait_s)
