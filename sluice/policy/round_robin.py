"""Round robin: the next worker in slot order, prefill and decode counted apart. The floor of every comparison.

Pure but for its two counters. Next: `least_load.py`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sluice.policy import pairing
from sluice.policy.fleet_table import FleetTable, FloatColumn
from sluice.policy.pairing import Seen
from sluice.policy.policy import Ask, Flip, Move, Placed, Running, Unplaced


class RoundRobin:
    """See the module."""

    name = "round_robin"

    def __init__(self) -> None:
        self._prefill = -1  # the slot chosen last
        self._decode = -1

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """See Policy."""
        placed = pairing.place(self, ask, fleet, cached_tokens)
        if isinstance(placed, Placed):
            self._decode = placed.decode
            if placed.is_split:
                self._prefill = placed.prefill
        return placed

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """Nothing ever moves."""
        return ()

    def prefill(self, seen: Seen) -> FloatColumn:
        """How far ahead of the last choice a slot is."""
        return _ahead(seen, self._prefill)

    def decode(self, seen: Seen) -> FloatColumn:
        """See `prefill`."""
        return _ahead(seen, self._decode)

    def whole(self, seen: Seen) -> FloatColumn:
        """See `prefill`."""
        return self.decode(seen)


def _ahead(seen: Seen, last: int) -> FloatColumn:
    return ((seen.slots - last - 1) % seen.fleet.rows).astype(np.float64)
