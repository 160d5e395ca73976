"""Decides how a running sequence gets to another worker: copy its KV, or compute it there again.

Both give the same tokens. Copying costs the link and a short freeze; computing again costs the
target's prefill of whatever it has not cached, and the client waits for it. Cheap prompts over slow
or unknown-to-be-slow links are computed again. Pure. Next: `router/evacuation.py`.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

FREEZE_S: Final = 0.02
"""What the client waits for in a live migration whatever its length: tail, commit, grant, one step."""

COPY_WEIGHT: Final = 0.1
"""A second of copying while the sequence runs on costs this share of a second of waiting."""


class Way(Enum):
    """How to move."""

    COPY = "copy"
    RECOMPUTE = "recompute"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What this router has measured, seconds per token; 0 until there is a measurement."""

    copy_s_per_token: float = 0.0
    prefill_s_per_token: float = 0.0

    def with_copy(self, *, tokens: int, seconds: float) -> "Rates":
        """After a transfer of `tokens` tokens' KV."""
        return Rates(
            copy_s_per_token=_smoothed(self.copy_s_per_token, tokens, seconds),
            prefill_s_per_token=self.prefill_s_per_token,
        )

    def with_prefill(self, *, tokens: int, seconds: float) -> "Rates":
        """After a prefill of `tokens` uncached tokens."""
        return Rates(
            copy_s_per_token=self.copy_s_per_token,
            prefill_s_per_token=_smoothed(self.prefill_s_per_token, tokens, seconds),
        )


def choose_way(rates: Rates, *, tokens: int, cached_tokens: int) -> Way:
    """The cheaper way for a sequence of `tokens` tokens, `cached_tokens` of them cached at the target.

    Without measurements it is copied: that is right wherever links are fast, and never wrong by much.
    """
    missing = max(0, tokens - cached_tokens)
    if not rates.copy_s_per_token or not rates.prefill_s_per_token:
        return Way.COPY
    copy_cost_s = FREEZE_S + COPY_WEIGHT * missing * rates.copy_s_per_token
    recompute_cost_s = missing * rates.prefill_s_per_token
    return Way.COPY if copy_cost_s <= recompute_cost_s else Way.RECOMPUTE


SMOOTHING: Final = 0.2
TOKENS_MIN: Final = 16  # shorter ones measure overheads


def _smoothed(known: float, tokens: int, seconds: float) -> float:
    if tokens < TOKENS_MIN or seconds <= 0:
        return known
    rate = seconds / tokens
    return known + (rate - known) * SMOOTHING if known else rate
