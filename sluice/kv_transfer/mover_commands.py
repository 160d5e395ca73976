"""What may be asked of a mover's thread, as values. Decides and does nothing. Next: `mover.py`."""

import math
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from sluice.domain.ids import BootId
from sluice.kv_transfer.transport import PeerInfo, Push, PushResult


class Fence(Protocol):
    """Says when the device has written the bytes of a push; the engine makes them."""

    def wait(self) -> None:
        """Block until they are readable by anyone."""
        ...


def _running() -> "Future[Any]":
    """A future that cannot be cancelled: only the transport says when a push is over."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(slots=True, kw_only=True, eq=False)
class Start:
    """Push once the fence has passed; abandoned if not terminal at `late_at_s`, set when it starts."""

    push: Push
    fence: Fence
    future: "Future[PushResult]" = field(default_factory=_running)
    late_at_s: float = math.inf


@dataclass(slots=True, kw_only=True, eq=False)
class Connect:
    """Connect to a peer; the future's value is the transport's name."""

    peer: PeerInfo
    future: "Future[str]" = field(default_factory=_running)


@dataclass(slots=True, kw_only=True)
class Disconnect:
    """Forget a peer."""

    boot: BootId


@dataclass(slots=True, kw_only=True)
class Abandon:
    """Stop caring for a push."""

    push: int


@dataclass(slots=True, kw_only=True)
class Stop:
    """Wake up and see that the mover is closing."""


Command: TypeAlias = Start | Connect | Disconnect | Abandon | Stop
