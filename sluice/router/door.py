"""Decides whether a request may come in now: open, holding while no worker serves, leaving, closed.

    OPEN --leave--> LEAVING (not ready for whoever chooses a router; who comes all the same is served) --close--> CLOSED

Without a ready worker a request is refused, or, where `hold_s` says so, held until one is ready: workers that were
scaled to zero are started for it. Held requests are bounded in number and time, cost no tokens' worth of
work, and are counted: whoever scales sees them. Never looks at a request. Next: `dispatcher.py`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from sluice.errors import NoWorkerError, OverloadedError

FULL_AGAIN_S: Final = 5.0
STOPPING: Final = "the router is stopping"


class State(Enum):
    """How far the router is on its way out."""

    OPEN = auto()
    LEAVING = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldLimits:
    """How long requests are held while no worker serves, and how many. 0 s: they are refused."""

    hold_s: float = 0.0
    held_requests_max: int = 1024


class Door:
    """The way into one router. One event loop."""

    def __init__(self, why_not_serving: Callable[[], str], limits: HoldLimits) -> None:
        """`why_not_serving` says why no worker admits work; empty when one does."""
        self._why_not_serving = why_not_serving
        self._limits = limits
        self._state = State.OPEN
        self._moved = asyncio.Event()  # something has changed for those that are held
        self.held = 0

    @property
    def is_leaving(self) -> bool:
        """Whether clients should come back to another router."""
        return self._state is not State.OPEN

    @property
    def is_closed(self) -> bool:
        """Whether nothing may begin here any more."""
        return self._state is State.CLOSED

    def unready(self) -> tuple[str, ...]:
        """Why clients should not choose this router now; empty when they may."""
        if self.is_leaving:
            return (STOPPING,)
        why = "" if self._limits.hold_s else self._why_not_serving()
        return (why,) if why else ()

    def leave(self) -> None:
        """The router is about to stop."""
        self._state = State.LEAVING

    def close(self) -> None:
        """What runs may end; nothing new begins, and what is held is refused."""
        self._state = State.CLOSED
        self._moved.set()

    def look(self) -> None:
        """Let those in that were held, if a worker serves now. Call often."""
        if self.held and not self._why_not_serving():
            self._moved.set()

    def check(self) -> None:
        """Raises NoWorkerError if nothing may begin now."""
        if self.is_closed:
            raise NoWorkerError(f"{STOPPING}; try again, or another router")
        if why := self._why_not_serving():
            raise NoWorkerError(f"{why}; try again, or another router")

    async def enter(self) -> None:
        """Returns when a worker serves, at once if one does.

        Raises NoWorkerError if none does and none is waited for, or has come in time; OverloadedError if too many wait.
        """
        if not self._limits.hold_s or not self._why_not_serving() or self.is_closed:
            self.check()
            return
        if self.held >= self._limits.held_requests_max:
            raise OverloadedError(f"{self.held} requests wait for a first worker", retry_after_s=FULL_AGAIN_S)
        self.held += 1
        try:
            async with asyncio.timeout(self._limits.hold_s):
                while self._why_not_serving() and not self.is_closed:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError as error:
            raise NoWorkerError(f"{self._why_not_serving()} after {self._limits.hold_s:g} s; try again") from error
        finally:
            self.held -= 1
        self.check()
