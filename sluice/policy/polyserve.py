"""PolyServe: the most loaded worker that still meets the deadlines of every token.

Source: PolyServe (arXiv 2507.17769): token i is due at `ttft + i * tpot`; requests go to the most loaded
worker whose predicted times keep that for the newcomer, waiting included, so that the least loaded
workers drain and can be given up. Where nobody can, the least loaded takes it. A worker's KV at its
peak must fit. Pure. Next: `joint.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from sluice.policy import forecast, pairing
from sluice.policy.fleet_table import FleetTable, FloatColumn
from sluice.policy.pairing import Seen
from sluice.policy.policy import Ask, Flip, Move, Placed, Running, Unplaced

INFEASIBLE: Final = 1e6


class PolyServe:
    """See the module."""

    name = "polyserve"

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """See Policy."""
        return pairing.place(self, ask, fleet, cached_tokens)

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """Nothing ever moves."""
        return ()

    def prefill(self, seen: Seen) -> FloatColumn:
        """By the share of the TTFT that is used."""
        return _most_loaded(_ttft_use(seen))

    def decode(self, seen: Seen) -> FloatColumn:
        """By the share of the TPOT that is used, if its KV will fit."""
        use = forecast.tpot_s(seen.fleet, seen.slots, seen.ask) / seen.ask.slo.tpot_s
        return _most_loaded(np.where(_fits(seen), use, use + INFEASIBLE))

    def whole(self, seen: Seen) -> FloatColumn:
        """By the last token's deadline: both uses must hold, load is the decode side's."""
        tpot = self.decode(seen)
        return np.where(_ttft_use(seen) <= 1.0, tpot, np.abs(tpot) + INFEASIBLE)


def _ttft_use(seen: Seen) -> FloatColumn:
    ask = seen.ask
    return (forecast.ttft_s(seen.fleet, seen.slots, ask, seen.cached) + ask.waited_s) / ask.slo.ttft_s


def _most_loaded(use: FloatColumn) -> FloatColumn:
    return np.where(use <= 1.0, -use, INFEASIBLE + use)


def _fits(seen: Seen) -> np.typing.NDArray[np.bool_]:
    tokens = seen.ask.prompt_tokens + seen.ask.output_tokens_expected
    needed = tokens / np.maximum(1, seen.fleet.block_tokens[seen.slots])
    return seen.fleet.free_blocks[seen.slots] >= needed
