"""Writes one choice's tokens into its request's outbox: text, log-probabilities, times, the end.

The per-token path of the router; everything here runs once per token. Decides only whether the
choice has ended. A client that has come back is not sent again what it has.
Next: `flow.py`, which orders the tokens and acts on the end.
"""

from collections.abc import Sequence

from sluice.domain.role import FinishReason
from sluice.router.choice_text import ChoiceText
from sluice.router.output import TokenLogprobs
from sluice.router.records import Record
from sluice.router.request import Request


class ChoiceWriter:
    """The output side of one sequence. `output` are its tokens so far."""

    __slots__ = ("_choice", "_first_index", "_record", "_request", "_text", "output")

    def __init__(self, request: Request, *, choice: int, text: ChoiceText, record: Record) -> None:
        self.output: list[int] = []
        self._request = request
        self._choice = choice
        self._first_index = request.job.first_index(choice)
        self._text = text
        self._record = record

    def add(
        self, token: int, finish: FinishReason | None, logprobs: TokenLogprobs | None, *, now_s: float
    ) -> FinishReason | None:
        """Write the next token; returns why the choice has ended, if it has: a stop string may come first."""
        index = len(self.output)
        self._time(now_s)
        if index >= self._first_index:
            self._request.outbox.unread_tokens += 1
        return self._write(index, token, finish, logprobs)

    def replay(self, tokens: Sequence[int], finish: FinishReason | None, *, now_s: float) -> FinishReason | None:
        """Write the first tokens, chosen before this router had the sequence; returns why it has ended, if it has."""
        self._record.first_token_s = self._record.last_token_s = now_s
        for index, token in enumerate(tokens):
            self._record.output_tokens += 1
            is_last = index == len(tokens) - 1
            reason = self._write(index, token, finish if is_last else None, None)
            if reason is not None:
                return reason
        return None

    def _write(
        self, index: int, token: int, finish: FinishReason | None, logprobs: TokenLogprobs | None
    ) -> FinishReason | None:
        self.output.append(token)
        text = self._text.flush() if finish is FinishReason.STOP else self._text.push(token)
        if self._text.is_stopped:
            finish = FinishReason.STOP
        elif finish is FinishReason.LENGTH:
            text += self._text.flush()
        if index < self._first_index:
            return finish
        piece = self._request.outbox.piece_of(self._choice, index=index)
        piece.tokens.append(token)
        piece.text += text
        if logprobs is not None:
            piece.logprobs.append(logprobs)
        return finish

    def finish(self, reason: FinishReason) -> None:
        """Mark the end; the caller closes the choice."""
        self._record.finish_reason = reason.value
        if len(self.output) > self._first_index:  # the end came with the last token, and the client may have that
            self._request.outbox.piece_of(self._choice, index=len(self.output)).finish = reason

    def _time(self, now_s: float) -> None:
        record = self._record
        record.output_tokens += 1
        if record.output_tokens == 1:
            record.first_token_s = record.last_token_s = now_s
            self._request.observer.first_token(record)
            return
        gap_s = now_s - record.last_token_s
        self._request.observer.gaps_s.append(gap_s)
        if gap_s > record.itl_max_s:  # noqa: PLR1730 - per token, and half the cost of max()
            record.itl_max_s = gap_s
        record.last_token_s = now_s
