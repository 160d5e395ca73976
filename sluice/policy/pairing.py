"""From costs per worker to a placement: the way every baseline that scores workers one by one goes.

The decode worker is chosen first, then the one that prefills; where every worker is mixed, one
does all. The lowest cost wins, equals are drawn by seed. Pure. Next: `least_load.py` for the
simplest costs, `joint.py` for the policy that weighs pairs.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

import numpy as np

from sluice.policy.fit import cached_column, fit
from sluice.policy.fleet_table import DECODE_BIT, FleetTable, FloatColumn, IntColumn
from sluice.policy.policy import Ask, Candidate, Placed, Unplaced

_MULTIPLIER: Final = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: spreads consecutive seeds
_MASK: Final = 2**64 - 1
_NAN: Final = float("nan")


class Seen(NamedTuple):
    """What costs are computed from: `slots` are the workers in question, `cached` the prompt tokens each has."""

    ask: Ask
    fleet: FleetTable
    slots: IntColumn
    cached: FloatColumn

    @property
    def sequences(self) -> FloatColumn:
        """Waiting or running there, this one not counted."""
        return (self.fleet.waiting[self.slots] + self.fleet.running[self.slots]).astype(np.float64)

    @property
    def queued_tokens(self) -> FloatColumn:
        """Prompt tokens to be computed there before this request's."""
        return self.fleet.queued_tokens[self.slots].astype(np.float64)


class Costs(Protocol):
    """What a policy thinks of workers: one number per slot, lower is better."""

    def prefill(self, seen: Seen) -> FloatColumn: ...

    def decode(self, seen: Seen) -> FloatColumn: ...

    def whole(self, seen: Seen) -> FloatColumn:
        """For prompt and output on one worker."""
        ...


def pick(costs: FloatColumn, *, seed: int) -> int:
    """The position of the lowest cost; equals are drawn by seed, so no worker is favoured."""
    equals = (costs == costs.min()).nonzero()[0]
    if len(equals) == 1:
        return int(equals[0])
    return int(equals[((seed * _MULTIPLIER & _MASK) >> 32) % len(equals)])


def place(costs: Costs, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int]) -> Placed | Unplaced:
    """Choose by `costs`. Splits whenever there are workers for it, as the published systems do."""
    found = fit(ask, fleet)
    if isinstance(found, Unplaced):
        return found
    cached = cached_column(found.decode, cached_tokens, ask)
    if not len(found.prefill) or _are_all_mixed(found.prefill, found.decode):
        whole = costs.whole(Seen(ask, fleet, found.decode, cached))
        at = pick(whole, seed=ask.seed)
        return placed_alone(fleet, int(found.decode[at]), cached_tokens=int(cached[at]), cost=float(whole[at]))
    decode_costs = costs.decode(Seen(ask, fleet, found.decode, cached))
    at = pick(decode_costs, seed=ask.seed)
    decode = int(found.decode[at])
    can_prefill = fleet.role_bits[found.prefill]
    if decode in found.prefill and not (can_prefill & DECODE_BIT == 0).any():
        # Only mixed workers prefill, and the best one to decode is among them: nothing needs to move.
        return placed_alone(fleet, decode, cached_tokens=int(cached[at]), cost=float(decode_costs[at]))
    prefill = sources(fleet, found.prefill, decode)
    cached = cached_column(prefill, cached_tokens, ask)
    prefill_costs = costs.prefill(Seen(ask, fleet, prefill, cached))
    by = pick(prefill_costs, seed=ask.seed)
    cost = float(prefill_costs[by]), float(decode_costs[at])
    return placed_split(fleet, int(prefill[by]), decode, cached_tokens=int(cached[by]), costs=cost)


def sources(fleet: FleetTable, prefill: IntColumn, decode: int) -> IntColumn:
    """Those of `prefill` that can hand off to `decode`; `fit` saw to it that there is one."""
    if not fleet.severed:
        return prefill
    return prefill[[fleet.can_send(source, decode) for source in prefill.tolist()]]


def placed_alone(fleet: FleetTable, slot: int, *, cached_tokens: int, cost: float, why: str = "") -> Placed:
    """One worker does all."""
    return Placed(
        prefill=slot,
        decode=slot,
        cached_tokens=cached_tokens,
        reason=f"one worker: {fleet.workers[slot]} (cost {cost:.3g}, {cached_tokens} cached){why}",
        candidates=(Candidate(prefill=slot, decode=slot, ttft_s=_NAN, tpot_s=_NAN, cost=cost, terms={"whole": cost}),),
    )


def placed_split(
    fleet: FleetTable, prefill: int, decode: int, *, cached_tokens: int, costs: tuple[float, float], why: str = ""
) -> Placed:
    """One worker prefills, one decodes; they may be the same. `costs` of the two, in that order."""
    names = f"{fleet.workers[prefill]} (cost {costs[0]:.3g}, {cached_tokens} cached)"
    terms = {"prefill": costs[0], "decode": costs[1]}
    return Placed(
        prefill=prefill,
        decode=decode,
        cached_tokens=cached_tokens,
        reason=f"split: {names}, {fleet.workers[decode]} (cost {costs[1]:.3g}){why}",
        candidates=(Candidate(prefill=prefill, decode=decode, ttft_s=_NAN, tpot_s=_NAN, cost=sum(costs), terms=terms),),
    )


def _are_all_mixed(prefill: IntColumn, decode: IntColumn) -> bool:
    return len(prefill) == len(decode) and bool((prefill == decode).all())
