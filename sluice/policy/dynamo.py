"""Dynamo's published cost: prefill blocks to compute and decode blocks held, in one sum.

Source: the KV router of NVIDIA Dynamo 1.5, as documented: `prefill_load_scale * max(active prefill
blocks + incoming prompt blocks - overlap credit, 0) + decode blocks`, the lowest wins (temperature
0), overlap on the device credited in full. With separate pools the prefill worker is chosen by the first
term, the decode worker by the second. Nothing in it knows GPU classes. Pure. Next: `lmetric.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from sluice.policy import pairing
from sluice.policy.fleet_table import FleetTable, FloatColumn
from sluice.policy.pairing import Seen
from sluice.policy.policy import Ask, Flip, Move, Placed, Running, Unplaced

PREFILL_LOAD_SCALE: Final = 1.0


class Dynamo:
    """See the module."""

    name = "dynamo"

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """See Policy."""
        return pairing.place(self, ask, fleet, cached_tokens)

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """Nothing ever moves."""
        return ()

    def prefill(self, seen: Seen) -> FloatColumn:
        """Prompt blocks to compute until this one is done."""
        block = _block_tokens(seen)
        blocks = (seen.queued_tokens + seen.ask.prompt_tokens) / block - seen.cached // block
        return PREFILL_LOAD_SCALE * np.maximum(blocks, 0.0)

    def decode(self, seen: Seen) -> FloatColumn:
        """Blocks of the sequences there and of this one."""
        return (seen.fleet.context_tokens[seen.slots] + seen.ask.prompt_tokens) / _block_tokens(seen)

    def whole(self, seen: Seen) -> FloatColumn:
        """Both."""
        return self.prefill(seen) + self.decode(seen)


def _block_tokens(seen: Seen) -> FloatColumn:
    return np.maximum(1, seen.fleet.block_tokens[seen.slots]).astype(np.float64)
