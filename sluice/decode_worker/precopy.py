"""Decides how often a running sequence's new blocks are copied before it is frozen.

Pure. Pre-copy as virtual machines are migrated (Clark et al., NSDI 2005) and as Llumnix does for
KV caches (Sun et al., OSDI 2024, section 4.2): copy while it runs, again what came since, and
freeze when the rest is a block or less. A sequence grows by one token a step, far slower than any
link, so the rest shrinks every round; the limits are for links that are broken or very slow.
Next: `moving.py`.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

GROWTH_TOKENS: Final = 256
"""Room asked of the target beyond what is computed: tokens that may come while copying."""


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
