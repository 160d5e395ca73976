"""Turns a stream of token ids into text, a piece per token, never half a character.

A piece may be empty while bytes of a character are missing; `flush` gives what is left, with
U+FFFD for bytes that never became a character. All pieces joined are what decoding all tokens
at once would give. Costs well under a microsecond a token for byte-level vocabularies.
Next: `stop_strings.py`.
"""

import codecs
from collections.abc import Sequence
from typing import Final, Protocol

from sluice.text.tokenizer import Tokenizer

CONTEXT_TOKENS: Final = 6
"""Tokens before a piece that decide its spacing: decoders look back at most one token."""

HELD_TOKENS_MAX: Final = 8
"""A character has at most 4 bytes; more undecodable tokens than this are text of their own."""

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class Detokenizer(Protocol):
    """One output's text so far."""

    def push(self, token: int) -> str:
        """The text that `token` completes; maybe empty."""
        ...

    def flush(self) -> str:
        """What is still held back. The stream is over."""
        ...


class ByteLevelDetokenizer:
    """For byte-level vocabularies: a table of bytes per token and Python's incremental UTF-8 decoder."""

    __slots__ = ("_decode", "_table")

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def push(self, token: int) -> str:
        try:
            return self._decode(self._table[token])
        except IndexError:
            return ""  # the model's vocabulary may be padded beyond the tokenizer's

    def flush(self) -> str:
        return self._decode(b"", True)  # noqa: FBT003 - codecs takes `final` by position


class WindowDetokenizer:
    """For every other decoder: decode a short window twice and emit the difference.

    The window is [`_start`, end); text of tokens before `_read` is already out. Spacing rules
    that look at neighbours thus see them, and the cost stays flat however long the output.
    """

    __slots__ = ("_emitted", "_read", "_tokenizer", "_window")

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._window = list(prompt[-CONTEXT_TOKENS:])
        self._read = len(self._window)
        self._emitted = tokenizer.decode(self._window)

    def push(self, token: int) -> str:
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        if text.endswith(_REPLACEMENT) and len(self._window) - self._read <= HELD_TOKENS_MAX:
            return ""
        return self._emit(text)

    def flush(self) -> str:
        return self._emit(self._tokenizer.decode(self._window))

    def _emit(self, text: str) -> str:
        piece = text[len(self._emitted) :]
        self._window = self._window[self._read :][-CONTEXT_TOKENS:] or self._window
        self._read = len(self._window)
        self._emitted = self._tokenizer.decode(self._window)
        return piece


def detokenizer(tokenizer: Tokenizer, *, prompt: Sequence[int]) -> Detokenizer:
    """The cheapest exact detokenizer for an output that follows `prompt`."""
    if tokenizer.byte_table is not None:
        return ByteLevelDetokenizer(tokenizer.byte_table)
    return WindowDetokenizer(tokenizer, prompt)
