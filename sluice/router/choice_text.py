"""The text of one choice: tokens in, text out, ended by stop strings.

The router owns text, so a stop string is found here and the worker is cancelled afterwards.
The token that ended a sequence (end of sequence, or a stop token) adds no text. Pure.
Next: `flow.py`.
"""

from collections.abc import Sequence

from sluice.text.detokenizer import detokenizer
from sluice.text.stop_strings import StopFinder
from sluice.text.tokenizer import Tokenizer


class ChoiceText:
    """One choice's text so far. `is_stopped` says that a stop string has been completed."""

    __slots__ = ("_detokenizer", "_min_tokens", "_stop", "_tokens")

    def __init__(self, tokenizer: Tokenizer, *, prompt: Sequence[int], stops: Sequence[str], min_tokens: int) -> None:
        self._detokenizer = detokenizer(tokenizer, prompt=prompt)
        self._stop = StopFinder(stops) if stops else None
        self._min_tokens = min_tokens
        self._tokens = 0

    @property
    def is_stopped(self) -> bool:
        return self._stop is not None and self._stop.is_stopped

    def push(self, token: int) -> str:
        """The text that may be shown after `token`."""
        text = self._detokenizer.push(token)
        if self._stop is None:
            return text
        self._tokens += 1
        if self._tokens < self._min_tokens:
            return text
        return self._stop.push(text)

    def flush(self) -> str:
        """What is held back; the choice is over."""
        text = self._detokenizer.flush()
        if self._stop is None:
            return text
        text = self._stop.push(text)
        return text if self._stop.is_stopped else text + self._stop.flush()
