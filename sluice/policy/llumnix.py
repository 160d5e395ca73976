"""Llumnix v1: SLO filters, decode packed tight, roles that follow the load, and rescheduling every 100 ms.

Source: Llumnix v1's documentation and published code. Workers are reserved for prefill, reserved
for decode, or free (mixed). Decode goes to the worker with the highest predicted TPOT still below
0.85 of the objective; where there is none, a free worker that decodes nothing yet, the one with the
lowest predicted TTFT, begins to; else the least loaded. Prefill goes to the lowest predicted TTFT
among workers that decode nothing. Every cycle one move to mitigate (from 0.95 of the TPOT objective
or more, to the most loaded below 0.85) and one to consolidate (from below 0.60 to the most loaded
below 0.85, so that the source becomes free for prefill). The shortest sequence moves. Nothing is
ever refused. Pure. Next: `xllm.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from sluice.domain.slo import STANDARD
from sluice.policy import forecast, pairing
from sluice.policy.fit import cached_column, fit
from sluice.policy.fleet_table import DECODE_BIT, PREFILL_BIT, FleetTable, FloatColumn, IntColumn
from sluice.policy.pairing import Seen, pick
from sluice.policy.policy import Ask, Flip, Move, Placed, Running, Unplaced

DECODE_SHARE_MAX: Final = 0.85
MITIGATE_SHARE_MIN: Final = 0.95
CONSOLIDATE_SHARE_MAX: Final = 0.60


class Llumnix:
    """See the module."""

    name = "llumnix"

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """See Policy."""
        found = fit(ask, fleet)
        if isinstance(found, Unplaced):
            return found
        if not len(found.prefill) or ask.resident is not None:
            return pairing.place(self, ask, fleet, cached_tokens)
        decode_costs = self.decode(Seen(ask, fleet, found.decode, cached_column(found.decode, cached_tokens, ask)))
        at = pick(decode_costs, seed=ask.seed)
        decode = int(found.decode[at])
        # Whoever decodes, the chosen one from now on included, prefills only when nobody else can.
        reaching = pairing.sources(fleet, found.prefill, decode)
        others = reaching[reaching != decode]
        if not len(others):
            others = reaching
        cached = cached_column(others, cached_tokens, ask)
        prefill_costs = self.prefill(Seen(ask, fleet, others, cached))
        by = pick(prefill_costs, seed=ask.seed)
        costs = float(prefill_costs[by]), float(decode_costs[at])
        return pairing.placed_split(fleet, int(others[by]), decode, cached_tokens=int(cached[by]), costs=costs)

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """At most one move to mitigate and one to consolidate."""
        movable = [one for one in running if not one.is_moving]
        if not movable:
            return ()
        tpot_max_s = min((one.slo.tpot_s for one in movable), default=STANDARD.tpot_s)
        share = forecast.tpot_now_s(fleet, slice(0, fleet.rows)) / tpot_max_s
        roles = fleet.role_bits[: fleet.rows]
        can_decode = (fleet.is_ready[: fleet.rows] > 0) & (roles & DECODE_BIT > 0)
        sources = {one.slot for one in movable}
        moves = []
        hot = max(sources, key=lambda slot: share[slot])
        if share[hot] >= MITIGATE_SHARE_MIN:
            moves += _move(movable, fleet, share, can_decode, hot, why="mitigate")
        free = [slot for slot in sources if roles[slot] & PREFILL_BIT and share[slot] < CONSOLIDATE_SHARE_MAX]
        if free:
            cold = min(free, key=lambda slot: share[slot])
            moves += _move(movable, fleet, share, can_decode, cold, why="consolidate")
        return moves

    def prefill(self, seen: Seen) -> FloatColumn:
        """Predicted TTFT, workers that decode last."""
        ttft_s = forecast.ttft_s(seen.fleet, seen.slots, seen.ask, seen.cached)
        return ttft_s + np.where(_decodes_any(seen), 1e6, 0.0)

    def decode(self, seen: Seen) -> FloatColumn:
        """Packed below the bound; then free workers by TTFT; then the least loaded."""
        fleet, slots = seen.fleet, seen.slots
        # As they decode now. Who is on the way counts on arrival: it may wait for its prompt for long, and to count it
        # meanwhile makes one free worker after the other decode, until none is left for prompts.
        running = forecast.decodes(fleet, slots)
        context = fleet.context_tokens[slots] + np.float64(seen.ask.prompt_tokens)
        step_s = forecast.decode_step_s(fleet, slots, sequences=running + 1.0, context_tokens=context)
        share = step_s / seen.ask.slo.tpot_s
        is_decoder = _decodes_any(seen) | (fleet.role_bits[slots] == DECODE_BIT)
        ttft_s = forecast.ttft_s(fleet, slots, seen.ask, seen.cached)
        unpacked = np.where(is_decoder, 2e6 + share, 1e6 + ttft_s)
        return np.where(is_decoder & (share <= DECODE_SHARE_MAX), -share, unpacked)

    def whole(self, seen: Seen) -> FloatColumn:
        """Where one role is left: as for decode."""
        return self.decode(seen)


def _decodes_any(seen: Seen) -> np.typing.NDArray[np.bool_]:
    fleet, slots = seen.fleet, seen.slots
    reserved_prefill = fleet.role_bits[slots] == PREFILL_BIT
    is_any: np.typing.NDArray[np.bool_] = (fleet.context_tokens[slots] > 0) & ~reserved_prefill
    return is_any


def _move(
    movable: Sequence[Running],
    fleet: FleetTable,
    share: FloatColumn,
    can_decode: np.typing.NDArray[np.bool_],
    source: int,
    *,
    why: str,
) -> list[Move]:
    """The shortest sequence of `source` to the most loaded worker that decodes and has room; nothing if none has."""
    may = can_decode & (share > 0.0) & (share < DECODE_SHARE_MAX)
    may[source] = False
    targets: IntColumn = may.nonzero()[0]
    if not len(targets):
        return []
    one = min((one for one in movable if one.slot == source), key=lambda one: one.context_tokens)
    target = int(targets[share[targets].argmax()])
    return [
        Move(sequence=one.sequence, to=target, why=f"{why}: {share[source]:.2f} of the TPOT at {fleet.workers[source]}")
    ]
