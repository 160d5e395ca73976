"""How long an answer is expected to be, before anybody knows: the mean of the latest ones, as far as its limit allows.

The router and the simulator guess alike. Pure but for the mean it keeps. Next: `policy.py`, whose Ask has it.
"""

from typing import Final

TOKENS_FIRST: Final = 256.0
"""Taken until answers have been seen: one of a chat."""

SMOOTHING: Final = 0.02


class AnswerLength:
    """The mean of whole answers, new ones counting more."""

    __slots__ = ("_mean_tokens",)

    def __init__(self) -> None:
        self._mean_tokens = TOKENS_FIRST

    def note(self, tokens: int) -> None:
        """An answer has ended by itself or at its limit, with so many tokens in all."""
        self._mean_tokens += SMOOTHING * (tokens - self._mean_tokens)

    def expected(self, *, tokens_max: int) -> float:
        """Of an answer that may have `tokens_max` tokens more."""
        return min(float(tokens_max), self._mean_tokens)
