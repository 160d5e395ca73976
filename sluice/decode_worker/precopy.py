"""Decides how often a running sequence's new blocks are copied before it is frozen.

Pure. Pre-copy as virtual machines are migrated (Clark et al., NSDI 2005) and as Llumnix does for
KV caches (Sun et al., OSDI 2024, section 4.2): copy while it runs, again what came since, and
freeze when the rest is a block or less. A sequence grows by one token a step, far slower than any
link, so the rest shrinks every round; the limits are for links that are broken or very slow.

A move nobody waits for is paced: its first round, which copies nearly everything, rests after each piece,
so that the sequences that go on on both workers hardly notice it. Resting ends long before the sequence
outgrows its room at the target.
Next: `moving.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

GROWTH_TOKENS: Final = 256
"""Room asked of the target beyond what is computed: tokens that may come while copying."""

PACED_TOKENS: Final = GROWTH_TOKENS // 2
"""A paced copy rests for as long as its sequence takes for so many tokens, all rests together."""

PIECE_BYTES: Final = 8 << 20
WORK_S: Final = 0.01
"""What a move costs either worker besides copying: calls, plans, the state. Rested for with the last piece."""

GATHERED_BYTES_PER_S: Final = 2.5e9
"""A CPU's engine gathers the keys of a sequence that joins; on one core of 2026, reading and writing all of them."""

REST_S_MAX: Final = 0.25
"""One rest: a drain that begins meanwhile waits no longer for it."""


class Choice(Enum):
    """What to do when a round's pushes are done."""

    COPY_AGAIN = "copy again"
    FREEZE = "freeze"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Where the copy stands: tokens computed here, tokens copied, room at the target."""

    number: int
    computed: int
    copied: int
    block_tokens: int
    room_tokens: int
    rounds_max: int


def after(done: Round) -> Choice:
    """Freeze when a block or less is left, when rounds run out, or before the room does."""
    left = done.computed - done.copied
    is_small = left <= done.block_tokens
    is_last = done.number > done.rounds_max
    is_tight = done.computed + 2 * done.block_tokens >= done.room_tokens
    return Choice.FREEZE if is_small or is_last or is_tight else Choice.COPY_AGAIN


def pieces(*, first: int, end: int, piece_tokens: int) -> Iterator[int]:
    """Where each piece of the copy of tokens [first, end) ends; one piece if there is nothing to copy."""
    yield from range(first + piece_tokens, end, piece_tokens)
    yield end


def joining_s(kv_bytes: int, *, is_gathered: bool) -> float:
    """What a move costs besides copying, once: for the calls, and where the target must gather the sequence's keys."""
    return WORK_S + (kv_bytes / GATHERED_BYTES_PER_S if is_gathered else 0.0)


def rests(worked_s: float, *, share: float, left_s: float) -> Iterator[float]:
    """How long to rest after `worked_s` of work, in pieces, so that a move works `share` of its time.

    `left_s` is what remains of the time that may be rested in all.
    """
    rest_s = min(worked_s * (1.0 - share) / share, left_s)
    while rest_s > 0.0:
        yield min(rest_s, REST_S_MAX)
        rest_s -= REST_S_MAX
