"""LMETRIC: new prefill tokens times batch size, the lowest product wins.

Source: LMETRIC (OSDI 2026), `argmin P_token * BS`, where P_token counts the queued prompt tokens
including this request's minus what the cache saves, and BS the running and queued sequences
including this one (its published router adds one, so that idle workers still differ by their
queues). With separate pools: prefill by new tokens, decode by batch size.

The hotspot rule: where a class of prompts is so popular that its few cache holders would take
more than their share, `x / (1 - x) > |M| / |M'|` (x the share of requests that hit M, M' the
others), and holders won 2|M| times in a row, M is left out of the next choice.
Pure but for the detector's window. Next: `hotspot.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from sluice.policy import pairing
from sluice.policy.fleet_table import FleetTable, FloatColumn, IntColumn
from sluice.policy.hotspot import HotspotDetector
from sluice.policy.pairing import Seen
from sluice.policy.policy import Ask, Flip, Move, Placed, Running, Unplaced

BARRED_FACTOR: Final = 1e6
"""A barred worker looks this many times as loaded as the most loaded one."""


class Lmetric:
    """See the module."""

    name = "lmetric"

    def __init__(self) -> None:
        self._hotspots = HotspotDetector()
        self._barred: frozenset[int] = frozenset()

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """See Policy."""
        self._barred = self._hotspots.barred(cached_tokens, workers=len(fleet.workers))
        placed = pairing.place(self, ask, fleet, cached_tokens)
        if isinstance(placed, Placed):
            self._hotspots.chose(placed.prefill, cached_tokens)
        return placed

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """Nothing ever moves."""
        return ()

    def prefill(self, seen: Seen) -> FloatColumn:
        """P_token: tokens to compute until this prompt is done."""
        tokens = seen.queued_tokens + seen.ask.prompt_tokens - seen.cached
        return self._bar(tokens, seen.slots)

    def decode(self, seen: Seen) -> FloatColumn:
        """BS: sequences there, with this one."""
        return seen.sequences + 1.0

    def whole(self, seen: Seen) -> FloatColumn:
        """P_token * BS."""
        return self.prefill(seen) * self.decode(seen)

    def _bar(self, tokens: FloatColumn, slots: IntColumn) -> FloatColumn:
        """The hotspot's holders become the last choice, not an impossible one: others may be full."""
        if not self._barred:
            return tokens
        is_barred = np.isin(slots, list(self._barred))
        return tokens + is_barred * (1.0 + float(tokens.max()) * BARRED_FACTOR)
