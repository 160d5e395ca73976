"""Writes one choice's tokens into its request's outbox: text, log-probabilities, times, the end.

The per-token path of the router; everything here runs once per token. Decides only whether the
choice has ended. Next: `flow.py`, which orders the tokens and acts on the end.
"""

from sluice.domain.role import FinishReason
from sluice.router.choice_text import ChoiceText
from sluice.router.output import TokenLogprobs
from sluice.router.records import Record
from sluice.router.request import Request


class ChoiceWriter:
    """The output side of one sequence. `output` are its tokens so far."""

    __slots__ = ("_choice", "_record", "_request", "_text", "output")

    def __init__(self, request: Request, *, choice: int, text: ChoiceText, record: Record) -> None:
        self.output: list[int] = []
        self._request = request
        self._choice = choice
        self._text = text
        self._record = record

    def add(
        self, token: int, finish: FinishReason | None, logprobs: TokenLogprobs | None, *, now_s: float
    ) -> FinishReason | None:
        """Write the next token; returns why the choice has ended, if it has: a stop string may come first."""
        outbox = self._request.outbox
        piece = outbox.piece_of(self._choice, index=len(self.output))
        self.output.append(token)
        outbox.unread_tokens += 1
        self._time(now_s)
        piece.tokens.append(token)
        if logprobs is not None:
            piece.logprobs.append(logprobs)
        if finish is FinishReason.STOP:
            piece.text += self._text.flush()
        else:
            piece.text += self._text.push(token)
        if self._text.is_stopped:
            return FinishReason.STOP
        if finish is FinishReason.LENGTH:
            piece.text += self._text.flush()
        return finish

    def finish(self, reason: FinishReason) -> None:
        """Mark the end; the caller closes the choice."""
        self._record.finish_reason = reason.value
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
