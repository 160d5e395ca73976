"""Mooncake's conductor: the shortest predicted TTFT to prefill, the shortest TBT to decode, or a refusal.

Source: Mooncake (FAST 2025), algorithm 1: per prefill worker TTFT = transfer + queue + prefill of what
its cache lacks; decode by predicted time between tokens; a request that would miss either objective is
refused at once (429). The algorithm also weighs fetching a better prefix from another worker where
that one's match exceeds the local one by `kvcache_balancing_threshold`; workers here do not fetch prefixes
from each other, so each counts its own cache only. Pure. Next: `joint.py`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sluice.policy import forecast, pairing
from sluice.policy.fleet_table import FleetTable, FloatColumn
from sluice.policy.pairing import Seen
from sluice.policy.policy import Ask, Flip, Move, Placed, Running, Unplaced


class Mooncake:
    """See the module."""

    name = "mooncake"

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """See Policy."""
        placed = pairing.place(self, ask, fleet, cached_tokens)
        if isinstance(placed, Unplaced) or ask.resident is not None:
            return placed
        ttft_s = self._ttft_s(ask, fleet, placed)
        tpot_s = float(forecast.tpot_s(fleet, np.array([placed.decode]), ask)[0])
        if ttft_s + ask.waited_s > ask.slo.ttft_s or tpot_s > ask.slo.tpot_s:
            reason = f"refused: TTFT {ttft_s + ask.waited_s:.3g} s, TPOT {tpot_s:.3g} s at the best workers"
            return Unplaced(reason=reason, is_final=True, retry_after_s=max(1.0, ttft_s))
        return placed

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """Nothing ever moves."""
        return ()

    def prefill(self, seen: Seen) -> FloatColumn:
        """Predicted TTFT."""
        return forecast.ttft_s(seen.fleet, seen.slots, seen.ask, seen.cached)

    def decode(self, seen: Seen) -> FloatColumn:
        """Predicted time between tokens."""
        return forecast.tpot_s(seen.fleet, seen.slots, seen.ask)

    def whole(self, seen: Seen) -> FloatColumn:
        """The larger share of its objective."""
        slo = seen.ask.slo
        return np.maximum(self.prefill(seen) / slo.ttft_s, self.decode(seen) / slo.tpot_s)

    def _ttft_s(self, ask: Ask, fleet: FleetTable, placed: Placed) -> float:
        at = np.array([placed.prefill])
        cached = np.array([float(placed.cached_tokens)])
        ttft_s = float(forecast.ttft_s(fleet, at, ask, cached)[0])
        if not placed.is_split:
            return ttft_s
        return ttft_s + float(forecast.transfer_s(fleet, at, np.array([placed.decode]), tokens=ask.prompt_tokens)[0])
