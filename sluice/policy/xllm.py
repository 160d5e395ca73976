"""xLLM's SLO-aware pairs, and role flips without waiting.

Source: xLLM (arXiv 2510.14686) and its published service. Decode: the first worker whose predicted TPOT
meets the objective, else the lowest. Prefill: the shortest queue in predicted seconds; if that alone
exceeds the TTFT objective and the least busy decode worker has TPOT to spare, below tpot * (D-1) / D,
the prompt is computed there. Flips: prefill to decode when no decode worker meets the TPOT and prefill
has room (mean queue below ttft * (P-1) / P, or D < P); decode to prefill when a decode worker is empty;
one of each always stays. Pure. Next: `llumnix.py`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sluice.domain.role import Role
from sluice.domain.slo import STANDARD, SloClass
from sluice.policy import forecast, pairing
from sluice.policy.fit import cached_column, fit
from sluice.policy.fleet_table import DECODE_BIT, PREFILL_BIT, FleetTable, FloatColumn
from sluice.policy.pairing import Seen
from sluice.policy.policy import Ask, Flip, Move, Placed, Running, Unplaced


class Xllm:
    """See the module."""

    name = "xllm"

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """See Policy."""
        placed = pairing.place(self, ask, fleet, cached_tokens)
        if isinstance(placed, Unplaced) or not placed.is_split or ask.resident is not None:
            return placed
        found = fit(ask, fleet)
        assert not isinstance(found, Unplaced)
        wait_s = float(forecast.queue_s(fleet, np.array([placed.prefill]))[0])
        tpot_s = forecast.tpot_s(fleet, found.decode, ask)
        spare = ask.slo.tpot_s * (len(found.decode) - 1) / len(found.decode)
        if wait_s + ask.waited_s <= ask.slo.ttft_s or float(tpot_s.min()) >= spare:
            return placed
        at = int(tpot_s.argmin())
        cached = int(cached_column(found.decode, cached_tokens, ask)[at])
        slot = int(found.decode[at])
        costs = float(tpot_s[at]), placed.candidates[0].terms["decode"]
        why = f"; prefill workers wait {wait_s:.3g} s"
        return pairing.placed_split(fleet, slot, placed.decode, cached_tokens=cached, costs=costs, why=why)

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """At most one flip."""
        ready, rows = fleet.is_ready[: fleet.rows] > 0, fleet.role_bits[: fleet.rows]
        prefill = ((rows == PREFILL_BIT) & ready).nonzero()[0]
        decode = ((rows == DECODE_BIT) & ready).nonzero()[0]
        if not (len(prefill) and len(decode)):
            return ()
        slo = _tightest(running)
        tpot_s = forecast.tpot_now_s(fleet, decode)
        wait_s = forecast.queue_s(fleet, prefill)
        prefills, decoders = len(prefill), len(decode)
        has_room = float(wait_s.mean()) < slo.ttft_s * (prefills - 1) / prefills or decoders < prefills
        if prefills > 1 and float(tpot_s.min()) > slo.tpot_s and has_room:
            slot = int(prefill[wait_s.argmin()])
            return (Flip(slot=slot, role=Role.DECODE, why="no decode worker meets the TPOT"),)
        empty = decode[(fleet.running[decode] + fleet.waiting[decode]) == 0]
        if decoders > 1 and len(empty):
            return (Flip(slot=int(empty[0]), role=Role.PREFILL, why="it decodes nothing"),)
        return ()

    def prefill(self, seen: Seen) -> FloatColumn:
        """Predicted seconds of what waits there."""
        return forecast.queue_s(seen.fleet, seen.slots)

    def decode(self, seen: Seen) -> FloatColumn:
        """The first that meets the objective, else the lowest."""
        tpot_s = forecast.tpot_s(seen.fleet, seen.slots, seen.ask)
        does_meet = tpot_s <= seen.ask.slo.tpot_s
        return np.where(does_meet, seen.slots - float(seen.fleet.rows), tpot_s)

    def whole(self, seen: Seen) -> FloatColumn:
        """Mixed workers are not xLLM's subject: the shortest queue among those that meet the TPOT."""
        tpot_s = forecast.tpot_s(seen.fleet, seen.slots, seen.ask)
        return self.prefill(seen) + np.where(tpot_s <= seen.ask.slo.tpot_s, 0.0, 1e6 + tpot_s)


def _tightest(running: Sequence[Running]) -> SloClass:
    return min((one.slo for one in running), key=lambda slo: slo.tpot_s, default=STANDARD)
