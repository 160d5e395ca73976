"""What a request has produced and its client has not read yet: pieces of text, merged and bounded.

The dispatcher puts, one client task takes. A client that lags gets several tokens in one
piece; one that stops reading is cut off by the flow at a limit. Decides nothing about text
(`choice_text.py`) and never touches the network. Next: `flow.py`, who fills it.
"""

import asyncio
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from sluice.domain.role import FinishReason
from sluice.errors import SluiceError
from sluice.wire.gen import sluice_pb2 as pb


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities of one output token, and of the likeliest alternatives in order."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]

    @classmethod
    def from_wire(cls, message: pb.TokenLogprobs) -> Self:
        """As a worker reports them."""
        return cls(message.token, message.logprob, tuple(zip(message.top_tokens, message.top_logprobs, strict=False)))


@dataclass(slots=True)
class Piece:
    """New output of one choice. `finish` is set in its last piece only."""

    choice: int
    first_index: int
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish: FinishReason | None = None


class Delivery(Enum):
    """When the reader wants to be woken."""

    EACH_STEP = "each step"
    AT_END = "at end"


class Outbox:
    """Unread output of all choices of one request. One writer, one reader, one event loop."""

    __slots__ = ("_delivery", "_error", "_open_choices", "_pending", "_waiter", "unread_tokens")

    def __init__(self, *, choices: int, delivery: Delivery) -> None:
        self.unread_tokens = 0
        self._delivery = delivery
        self._open_choices = choices
        self._pending: dict[int, Piece] = {}
        self._error: SluiceError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_streaming(self) -> bool:
        """Whether unread tokens mean a slow reader."""
        return self._delivery is Delivery.EACH_STEP

    def piece_of(self, choice: int, *, index: int) -> Piece:
        """The unread piece of a choice, to be added to; a fresh one starts at output `index`."""
        piece = self._pending.get(choice)
        if piece is None:
            piece = self._pending[choice] = Piece(choice, index)
        return piece

    def wake(self) -> None:
        """New output is there: let the reader run, if it wants to by now."""
        if self._delivery is Delivery.EACH_STEP:
            self._rouse()

    def close_choice(self) -> None:
        """One more choice has its last piece."""
        self._open_choices -= 1
        if self._open_choices == 0 or self._delivery is Delivery.EACH_STEP:
            self._rouse()

    def fail(self, error: SluiceError) -> None:
        """The request ends here; the reader gets what is unread, then `error`. The first error counts."""
        if self._error is None:
            self._error = error
        self._rouse()

    async def take(self) -> list[Piece]:
        """Unread pieces, at most one per choice; [] when everything has been read. Raises the request's error."""
        while True:
            if self._error is not None and not (self._pending and self.is_streaming):
                raise self._error
            if self._pending and (self._open_choices == 0 or self._delivery is Delivery.EACH_STEP):
                pieces = list(self._pending.values())
                self._pending.clear()
                self.unread_tokens = 0
                return pieces
            if self._open_choices == 0:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
            self._waiter = None

    def _rouse(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
