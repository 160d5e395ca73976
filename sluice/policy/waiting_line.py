"""Who is next among those that wait for a worker: urgency first, tenants in fair turns, nobody forever.

Order: whoever lost a worker; then the most urgent class, but a class that was passed over
BYPASSED_MAX times while it waited goes first once; within a class start-time fair queueing over tenants
(Goyal, Vin, Cheng, SIGCOMM 1996): a request starts, in virtual time, where its tenant's last one ended, and the
earliest start is next. So a tenant that sends much waits behind one that sends little, and every
request's turn comes after a bounded amount of other tenants' work. Never reads a clock, never places.
Next: `admission.py`.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sluice.domain.slo import Urgency

BYPASSED_MAX: Final = 8
"""A waiting class is served at least once in this many turns, and one more per class that waits as long."""

TENANTS_MAX: Final = 4096
"""Remembered past their last request; one that is forgotten starts anew, at no one's cost."""

T = TypeVar("T")


@dataclass(slots=True)
class _Place(Generic[T]):
    item: T
    tokens: int
    urgency: Urgency
    has_left: bool = False


class _Class(Generic[T]):
    """One urgency's line."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, _Place[T]]] = []  # virtual start, arrival
        self.waiting = 0
        self.bypassed = 0
        self._now = 0.0  # virtual time, in tokens
        self._ends: dict[str, float] = {}  # by tenant

    def enter(self, place: _Place[T], *, tenant: str, arrival: int) -> None:
        start = max(self._now, self._ends.get(tenant, 0.0))
        self._ends[tenant] = start + max(1, place.tokens)
        if len(self._ends) > TENANTS_MAX:
            self._ends = {name: end for name, end in self._ends.items() if end > self._now}
        heapq.heappush(self.heap, (start, arrival, place))
        self.waiting += 1

    def first(self) -> _Place[T] | None:
        """The next of this class; those that left are dropped on the way."""
        while self.heap and self.heap[0][2].has_left:
            heapq.heappop(self.heap)
        return self.heap[0][2] if self.heap else None

    def take(self, place: _Place[T]) -> None:
        start, _, first = heapq.heappop(self.heap)
        assert first is place, "who is taken was first"
        self._now = max(self._now, start)
        self.waiting -= 1
        self.bypassed = 0


class WaitingLine(Generic[T]):
    """Items in the order they should be served. Not thread-safe."""

    def __init__(self) -> None:
        self._returned: deque[_Place[T]] = deque()
        self._classes: dict[Urgency, _Class[T]] = {urgency: _Class() for urgency in Urgency}
        self._places: dict[int, _Place[T]] = {}  # by id() of the item: items are distinct objects
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[T]:
        """All that wait, in the order they came."""
        return (place.item for place in self._places.values())

    def enter(self, item: T, *, tokens: int, urgency: Urgency, tenant: str) -> None:
        """Wait in a class."""
        self._arrivals += 1
        place = _Place(item, tokens, urgency)
        self._places[id(item)] = place
        self._classes[urgency].enter(place, tenant=tenant, arrival=self._arrivals)

    def return_to_front(self, item: T) -> None:
        """Wait before everyone."""
        place = _Place(item, 0, Urgency.INTERACTIVE)
        self._places[id(item)] = place
        self._returned.appendleft(place)

    def first(self) -> T | None:
        """Who is next; it stays."""
        place = self._first()
        return None if place is None else place.item

    def take_first(self) -> T:
        """Who was next has been served."""
        place = self._first()
        assert place is not None, "somebody waits"
        del self._places[id(place.item)]
        if self._returned and self._returned[0] is place:
            self._returned.popleft()
            return place.item
        self._classes[place.urgency].take(place)
        for urgency, line in self._classes.items():
            if urgency != place.urgency and line.waiting:
                line.bypassed += 1
        return place.item

    def leave(self, item: T) -> bool:
        """Someone gave up; True if it waited here."""
        place = self._places.pop(id(item), None)
        if place is None:
            return False
        place.has_left = True
        if place in self._returned:
            self._returned.remove(place)
        else:
            self._classes[place.urgency].waiting -= 1
        return True

    def _first(self) -> _Place[T] | None:
        if self._returned:
            return self._returned[0]
        waiting = [line for line in self._classes.values() if line.waiting]
        if not waiting:
            return None
        longest = max(waiting, key=lambda line: line.bypassed)  # the most urgent of equals
        return (longest if longest.bypassed >= BYPASSED_MAX else waiting[0]).first()
