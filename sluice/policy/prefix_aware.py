"""Prefix-aware with a balance guard: the longest match, unless the fleet is out of balance.

Source: SGLang's cache-aware router: out of balance (difference above an absolute and a relative
threshold) it takes the fewest sequences; otherwise the worker with the longest match if that is more than
the cache threshold of the prompt, else the least loaded one. Pure. Next: `lmetric.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from sluice.policy import pairing
from sluice.policy.fleet_table import FleetTable, FloatColumn
from sluice.policy.pairing import Seen
from sluice.policy.policy import Ask, Flip, Move, Placed, Running, Unplaced

CACHE_SHARE_MIN: Final = 0.3
BALANCE_SEQUENCES: Final = 64
BALANCE_FACTOR: Final = 1.5


class PrefixAware:
    """See the module."""

    name = "prefix_aware"

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """See Policy."""
        return pairing.place(self, ask, fleet, cached_tokens)

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """Nothing ever moves."""
        return ()

    def prefill(self, seen: Seen) -> FloatColumn:
        """Less the match where that counts, else the load."""
        sequences, matched = seen.sequences, seen.cached
        most, least = float(sequences.max()), float(sequences.min())
        is_unbalanced = most - least > BALANCE_SEQUENCES and most > BALANCE_FACTOR * least
        if is_unbalanced or float(matched.max()) <= CACHE_SHARE_MIN * seen.ask.prompt_tokens:
            return sequences
        return np.where(matched == matched.max(), sequences, np.inf)

    def decode(self, seen: Seen) -> FloatColumn:
        """Sequences there: the prompt's KV comes from elsewhere."""
        return seen.sequences

    def whole(self, seen: Seen) -> FloatColumn:
        """See `prefill`."""
        return self.prefill(seen)
