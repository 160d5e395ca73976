"""The ids of server-sent events: which request, and how many tokens of each choice the client has by then.

    id: cmpl-4f2a/17          one choice, 17 tokens
    id: chatcmpl-9c01/17.12   two choices

A client that lost its stream sends the last one it saw as `Last-Event-ID`, with the same body, to
any router. Pure. Next: `openai_replies.py`, who writes them; `claims.py`, for what comes then.
"""

import re
from collections.abc import Sequence
from typing import Final

from sluice.domain.ids import RequestId
from sluice.errors import InvalidRequestError

CHOICES_MAX: Final = 16
"""With more choices than this, events carry no id: it would outweigh the text."""

_PATTERN: Final = re.compile(rf"([!-~]{{1,128}})/(\d{{1,9}}(?:\.\d{{1,9}}){{0,{CHOICES_MAX - 1}}})")


class EventIds:
    """Writes the id line of every event of one stream."""

    __slots__ = ("_counts", "_head", "_is_silent", "_is_single")

    def __init__(self, request: RequestId, counts: Sequence[int]) -> None:
        """`counts` are the tokens of each choice that the client has when the stream starts."""
        self._head = f"id: {request}/".encode()
        self._counts = list(counts)
        self._is_single = len(self._counts) == 1
        self._is_silent = len(self._counts) > CHOICES_MAX

    def line(self, choice: int, tokens: int) -> bytes:
        """The id of an event after which the client has so many tokens of this choice."""
        if self._is_single:
            return b"%b%d\n" % (self._head, tokens)
        if self._is_silent:
            return b""
        self._counts[choice] = tokens
        return b"%b%b\n" % (self._head, b".".join([b"%d" % count for count in self._counts]))


def parse(text: str) -> tuple[RequestId, tuple[int, ...]]:
    """The request and the counts of an id. Raises InvalidRequestError."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        remedy = "send the id of the last event you have seen, unchanged"
        raise InvalidRequestError(field="last-event-id", problem="is not an id of ours", remedy=remedy)
    return RequestId(match[1]), tuple(int(count) for count in match[2].split("."))
