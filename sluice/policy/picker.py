"""Takes the candidate with the highest score; equals are drawn by seed, so no worker is favoured.

Pure: the same candidates and seed give the same pick. Next: `placement.py`.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sluice.policy.view import WorkerView

_MULTIPLIER: Final = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: spreads consecutive seeds
_MASK: Final = 2**64 - 1


class Candidate(NamedTuple):
    """A worker that passed the filters, and what it scored.

    `prefix` is the share of the prompt it holds, `load` what `score` would be without the
    preference for that prefix, where there is one.
    """

    view: WorkerView
    cached_tokens: int
    prefix: float
    load: float
    score: float


def pick(candidates: Sequence[Candidate], *, seed: int) -> Candidate:
    """The best candidate. There must be one."""
    best = max(candidate.score for candidate in candidates)
    equals = [candidate for candidate in candidates if candidate.score == best]
    if len(equals) == 1:
        return equals[0]
    return equals[((seed * _MULTIPLIER & _MASK) >> 32) % len(equals)]
