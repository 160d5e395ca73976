"""llm-d's SLO headroom: best fit among the workers predicted to meet both objectives.

Source: llm-d's predicted-latency scheduling: p90 TTFT and TPOT are predicted per worker; headroom is the
objective less the prediction, combined 80 % TTFT and 20 % TPOT. Among workers with room for both the
least headroom wins (the fullest that still fits); without any, the smallest excess. One request
in a hundred explores. Its predictor learns from requests; here it is the fleet's curves, so that every policy
predicts alike. Pure. Next: `polyserve.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from sluice.policy import forecast, pairing
from sluice.policy.fleet_table import FleetTable, FloatColumn
from sluice.policy.pairing import Seen
from sluice.policy.policy import Ask, Flip, Move, Placed, Running, Unplaced

TTFT_WEIGHT: Final = 0.8
TPOT_WEIGHT: Final = 0.2
P90: Final = 1.2816  # standard deviations
EXPLORE_ONE_IN: Final = 100
NO_ROOM: Final = 1e6


class LlmD:
    """See the module."""

    name = "llm_d"

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """See Policy."""
        return pairing.place(self, ask, fleet, cached_tokens)

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """Nothing ever moves."""
        return ()

    def prefill(self, seen: Seen) -> FloatColumn:
        """TTFT headroom, best fit."""
        room = _ttft_room(seen)
        return _best_fit(seen, room >= 0.0, room)

    def decode(self, seen: Seen) -> FloatColumn:
        """TPOT headroom, best fit."""
        room = _tpot_room(seen)
        return _best_fit(seen, room >= 0.0, room)

    def whole(self, seen: Seen) -> FloatColumn:
        """Both headrooms, weighted."""
        ttft, tpot = _ttft_room(seen), _tpot_room(seen)
        return _best_fit(seen, (ttft >= 0.0) & (tpot >= 0.0), TTFT_WEIGHT * ttft + TPOT_WEIGHT * tpot)


def _best_fit(seen: Seen, has_room: np.typing.NDArray[np.bool_], room: FloatColumn) -> FloatColumn:
    if seen.ask.seed % EXPLORE_ONE_IN == EXPLORE_ONE_IN - 1:
        return np.zeros(len(room))  # all alike: drawn by seed
    return np.where(has_room, room, NO_ROOM - room)


def _ttft_room(seen: Seen) -> FloatColumn:
    """Objective less p90 prediction, as a share of the objective."""
    limit_s = seen.ask.slo.ttft_s
    predicted_s = forecast.ttft_s(seen.fleet, seen.slots, seen.ask, seen.cached) * _p90(seen) + seen.ask.waited_s
    room: FloatColumn = 1.0 - predicted_s / limit_s
    return room


def _tpot_room(seen: Seen) -> FloatColumn:
    predicted_s = forecast.tpot_s(seen.fleet, seen.slots, seen.ask) * _p90(seen)
    room: FloatColumn = 1.0 - predicted_s / seen.ask.slo.tpot_s
    return room


def _p90(seen: Seen) -> FloatColumn:
    return 1.0 + P90 * seen.fleet.error[seen.slots]
