"""Least load: the shortest prompt queue in tokens, the fewest sequences to decode.

What DistServe (OSDI 2024) and Splitwise (ISCA 2024) dispatch by: join the shortest queue of
tokens to prefill, the least loaded worker to decode. Blind to caches, times and prices.
Pure. Next: `lmetric.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from sluice.policy import pairing
from sluice.policy.fleet_table import FleetTable, FloatColumn
from sluice.policy.pairing import Seen
from sluice.policy.policy import Ask, Flip, Move, Placed, Running, Unplaced

TIE_TOKENS: Final = 1e9
"""Queued tokens only break ties between equal counts of sequences."""


class LeastLoad:
    """See the module."""

    name = "least_load"

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """See Policy."""
        return pairing.place(self, ask, fleet, cached_tokens)

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """Nothing ever moves."""
        return ()

    def prefill(self, seen: Seen) -> FloatColumn:
        """Prompt tokens before this request's."""
        return seen.queued_tokens

    def decode(self, seen: Seen) -> FloatColumn:
        """Sequences there."""
        return seen.sequences

    def whole(self, seen: Seen) -> FloatColumn:
        """Sequences there, then queued tokens."""
        return seen.sequences + seen.queued_tokens / TIE_TOKENS
