"""Which services are looked at, and when: each at most once at a time, soon after something happened, again later.

A failed look is tried again after a growing pause; other services do not wait for it. Knows nothing of
what a look does. Next: `reconcile.py`.
"""

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from sluice.clock import Clock
from sluice.errors import SluiceError
from sluice.operator.manifest import Ref

log = logging.getLogger(__name__)

RETRY_S_MIN: Final = 0.5

Look = Callable[[Ref], Awaitable[float | None]]
"""One look at a service; returns after how many seconds the next is due, None for not at all."""


@dataclass(slots=True)
class Schedule:
    """Who is due when. Pure: told the time, never reads it."""

    due_s: dict[Ref, float] = field(default_factory=dict)
    failures: dict[Ref, int] = field(default_factory=dict)
    _heap: list[tuple[float, Ref]] = field(default_factory=list)

    def ask(self, ref: Ref, *, at_s: float) -> None:
        """Look at `ref` at this time, unless it is due earlier."""
        if self.due_s.get(ref, float("inf")) > at_s:
            self.due_s[ref] = at_s
            heapq.heappush(self._heap, (at_s, ref))

    def take(self, *, now_s: float, busy: set[Ref]) -> Ref | None:
        """The one that is due longest and not being looked at; it is due no more."""
        waiting: list[tuple[float, Ref]] = []
        found = None
        while self._heap and self._heap[0][0] <= now_s:
            at_s, ref = heapq.heappop(self._heap)
            if self.due_s.get(ref) != at_s:
                continue  # asked for anew, or done
            if ref in busy:
                waiting.append((at_s, ref))
                continue
            del self.due_s[ref]
            found = ref
            break
        for item in waiting:
            heapq.heappush(self._heap, item)
        return found

    def next_due_s(self, *, busy: set[Ref]) -> float | None:
        """When the next one is due; None if none is."""
        return min((at_s for ref, at_s in self.due_s.items() if ref not in busy), default=None)

    def retry_s(self, ref: Ref, *, retry_s_max: float) -> float:
        """The pause after another failure."""
        self.failures[ref] = self.failures.get(ref, 0) + 1
        return float(min(RETRY_S_MIN * 2 ** (self.failures[ref] - 1), retry_s_max))

    def succeeded(self, ref: Ref) -> None:
        """The next failure is the first again."""
        self.failures.pop(ref, None)


class WorkQueue:
    """Runs looks, a few at a time. One event loop."""

    def __init__(self, look: Look, clock: Clock, *, parallel_max: int, retry_s_max: float) -> None:
        self._look = look
        self._clock = clock
        self._parallel_max = parallel_max
        self._retry_s_max = retry_s_max
        self._schedule = Schedule()
        self._busy: set[Ref] = set()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, ref: Ref, *, after_s: float = 0.0) -> None:
        """Something about `ref` has changed, or will have."""
        self._schedule.ask(ref, at_s=self._clock.now_s() + after_s)
        self._changed.set()

    def ask_first(self, ref: Ref) -> None:
        """Somebody waits for it: before everyone who is only due again."""
        self._schedule.ask(ref, at_s=float("-inf"))
        self._changed.set()

    async def run(self) -> None:
        """Look at whoever is due, until cancelled; looks under way are cancelled too."""
        try:
            while True:
                self._changed.clear()
                self._start_due()
                await self._wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start_due(self) -> None:
        while len(self._busy) < self._parallel_max:
            ref = self._schedule.take(now_s=self._clock.now_s(), busy=self._busy)
            if ref is None:
                return
            self._busy.add(ref)
            task = asyncio.create_task(self._one(ref), name=f"reconcile {ref}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _wait(self) -> None:
        due_s = self._schedule.next_due_s(busy=self._busy) if len(self._busy) < self._parallel_max else None
        pause_s = None if due_s is None else max(0.0, due_s - self._clock.now_s())
        try:
            async with asyncio.timeout(pause_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _one(self, ref: Ref) -> None:
        try:
            again_s = await self._look(ref)
            self._schedule.succeeded(ref)
        except SluiceError as error:
            again_s = self._schedule.retry_s(ref, retry_s_max=self._retry_s_max)
            log.warning("%s: %s; again in %.1f s", ref, error, again_s)
        except Exception:
            again_s = self._schedule.retry_s(ref, retry_s_max=self._retry_s_max)
            log.exception("%s: a look failed; again in %.1f s", ref, again_s)
        finally:
            self._busy.discard(ref)
            self._changed.set()
        if again_s is not None:
            self.ask(ref, after_s=again_s)
