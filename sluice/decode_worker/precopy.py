"""Decides how often a running sequence's new blocks are copied before it is frozen.

Pure. Pre-copy as virtual machines are migrated (Clark et al., NSDI 2005) and as Llumnix does for
KV caches (Sun et al., OSDI 2024, section 4.2): copy while it runs, again what came since, and
freeze when the rest is a block or less. A sequence grows by one token a step, far slower than any
link, so the rest shrinks every round; the limits are for links that are broken or very slow.

A move nobody waits for is paced: its first round, which copies nearly everything, rests after each piece,
so that the sequences that go on on both workers hardly notice it. Resting ends long before the sequence
outgrows its room at the target: it is counted in the sequence's tokens, because how long its next steps last is
only guessed, and guessed far too long just after its prompt has been computed.
Next: `moving.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

GROWTH_TOKENS_MIN: Final = 256
GROWTH_SHARE: Final = 16
"""A longer sequence is copied, and rested for, for longer: room for one more token in so many."""

PIECE_BYTES: Final = 8 << 20
WORK_S: Final = 0.01
"""What a move costs either worker besides copying: calls, plans, the state. Rested for with the last piece."""

GATHERED_BYTES_PER_S: Final = 1e9
"""A CPU's engine gathers the keys of a sequence that joins, while others wait; a core of 2026, beside a busy one."""

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


def growth_tokens(tokens: int) -> int:
    """Room asked of the target beyond a sequence's `tokens`: for those that may come while copying."""
    return max(GROWTH_TOKENS_MIN, tokens // GROWTH_SHARE)


def paced_tokens(growth_tokens: int) -> int:
    """How many tokens may come, of those there is room for, before a copy does not rest any more."""
    return growth_tokens // 2


def pieces(*, first: int, end: int, piece_tokens: int) -> Iterator[int]:
    """Where each piece of the copy of tokens [first, end) ends; one piece if there is nothing to copy."""
    yield from range(first + piece_tokens, end, piece_tokens)
    yield end


def joining_s(kv_bytes: int, *, is_gathered: bool) -> float:
    """What a move costs besides copying, once: for the calls, and where the target must gather the sequence's keys."""
    return WORK_S + (kv_bytes / GATHERED_BYTES_PER_S if is_gathered else 0.0)


def owed_s(worked_s: float, *, share: float) -> float:
    """How long to rest after `worked_s` of work, so that a move works `share` of its time."""
    return worked_s * (1.0 - share) / share


def rest_s(owed_s: float, *, left_tokens: int, step_s: float) -> float:
    """How long to rest before looking again, of what is owed; 0 or less: go on.

    `left_tokens` may still come before resting has to end; `step_s` is how long one takes, as far as anybody knows.
    """
    return min(owed_s, left_tokens * step_s, REST_S_MAX)
