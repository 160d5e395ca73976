"""What the router says to one worker: a bounded queue and the task that writes it to the stream.

A worker that does not read is cut off when its queue is full: its sequences go elsewhere.
Never reads. Next: `fleet.py`; `fleet_service.py` owns the stream.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from sluice.wire.gen import sluice_pb2 as pb

OUTGOING_MESSAGES_MAX: Final = 4096


class WorkerLink:
    """The way to one incarnation of a worker. One event loop."""

    __slots__ = ("_closed_because", "_outgoing", "_wake", "sent")

    def __init__(self) -> None:
        self._outgoing: deque[pb.RouterMessage] = deque()
        self._wake = asyncio.Event()
        self._closed_because = ""
        self.sent = 0  # messages queued so far

    @property
    def closed_because(self) -> str:
        """Why the link was closed from this side, or ""."""
        return self._closed_because

    def send(self, message: pb.RouterMessage) -> None:
        """Queue a message; on a closed link nothing happens. A full queue closes the link."""
        if self._closed_because:
            return
        if len(self._outgoing) >= OUTGOING_MESSAGES_MAX:
            self.close("the worker does not read its messages")
            return
        self._outgoing.append(message)
        self.sent += 1
        self._wake.set()

    def close(self, reason: str) -> None:
        """End the link; the stream's owner then reports the worker as gone. Idempotent."""
        self._closed_because = self._closed_because or reason
        self._outgoing.clear()
        self._wake.set()

    async def write_all(self, write: Callable[[pb.RouterMessage], Awaitable[None]]) -> None:
        """Write queued messages until the link is closed."""
        while not self._closed_because:
            while self._outgoing:
                await write(self._outgoing.popleft())
            self._wake.clear()
            if not self._closed_because:
                await self._wake.wait()
