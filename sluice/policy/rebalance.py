"""Which running sequences would better decode elsewhere: moves that save more misses than they cost.

One measure for every reason to move. A sequence is worth moving when the misses expected of it and of those it runs
beside, each by its own class, less those expected at the target with it there, exceed what a move costs. That is
rebalancing where a worker is overloaded, isolation where a loose class slows a tight one, and defragmentation
where KV runs out and a sequence would be preempted. Nothing is moved to empty a worker: that is a
drain's work. Only workers where misses are expected are looked at, so a calm fleet costs nothing. Pure.
Next: `joint.py`, whose tend() this is; `restraint.py` for what is carried out of it.
"""

import heapq
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from sluice.domain.slo import SloClass
from sluice.policy.fleet_table import DECODE_BIT, FleetTable, FloatColumn
from sluice.policy.policy import Move, Running
from sluice.policy.residents import TINY_S
from sluice.policy.worth import MEMORY_MARGIN, Steps

HOT_MIN: Final = 0.5
"""Misses expected at a worker before it is looked at."""

GAIN_MIN: Final = 0.25
"""Misses a move must save: estimates err, and a client sees a pause."""

HOT_MAX: Final = 4
"""Workers looked at in one call, the worst first; one sequence leaves each."""

TARGETS: Final = 8
"""Workers with the shortest steps, and as many who miss least, that are weighed for one sequence."""

FREEZE_S: Final = 0.02
"""Pause of a live migration."""

TOKENS_LEFT: Final = 100.0
"""Over which a pause is made up for."""


class Decoders:
    """Every worker's steps and who decodes there; moves already wished are counted in."""

    def __init__(self, fleet: FleetTable, steps: Steps, running: Sequence[Running]) -> None:
        rows = fleet.rows
        self.fleet = fleet
        self.step_s = steps.step_s.copy()
        self.free_blocks = fleet.free_blocks[:rows].astype(np.float64)
        self._steepness = steps.steepness
        may = (fleet.is_ready[:rows] > 0) & (fleet.role_bits[:rows] & DECODE_BIT > 0)
        self.may = may & (steps.sequences < fleet.batch_sequences_max[:rows])
        self.there: list[dict[tuple[float, float], int]] = [{} for _ in range(rows)]
        self.movable: list[list[Running]] = [[] for _ in range(rows)]
        for one in running:
            self._count(one, one.slot, 1)
            if not one.is_moving:
                self.movable[one.slot].append(one)

    def own_s(self, one: Running, slot: int) -> float:
        """What a sequence adds to a step."""
        return float(self.fleet.decode_s[slot] + self.fleet.context_token_s[slot] * one.context_tokens)

    def cost(self, slot: int, *, more_s: float = 0.0, more_blocks: float = 0.0) -> float:
        """Misses expected there, a preemption included, with steps so much longer and so many more blocks used."""
        there = self.there[slot].items()
        missed = sum(count * self._miss(slot, more_s, *objective) for objective, count in there if count)
        margin = MEMORY_MARGIN * float(self.fleet.blocks[slot]) + 1.0
        crowding = 1.0 - (float(self.free_blocks[slot]) - more_blocks) / margin
        return missed + (min(max(crowding, 0.0), 2.0) if there else 0.0)

    def cost_without(self, one: Running) -> float:
        """Misses expected where it runs once it is gone."""
        less_s, blocks = -self.own_s(one, one.slot), -self.blocks(one, one.slot)
        return self.cost(one.slot, more_s=less_s, more_blocks=blocks) - self.miss(one.slot, one.slo, more_s=less_s)

    def miss(self, slot: int, slo: SloClass, *, more_s: float) -> float:
        """What it costs that one of this class may miss there."""
        return self._miss(slot, more_s, slo.tpot_s, slo.miss_cost)

    def move(self, one: Running, to: int) -> None:
        """Count it as gone there."""
        self.step_s[one.slot] -= self.own_s(one, one.slot)
        self.step_s[to] += self.own_s(one, to)
        self.free_blocks[one.slot] += self.blocks(one, one.slot)
        self.free_blocks[to] -= self.blocks(one, to)
        self._count(one, one.slot, -1)
        self._count(one, to, 1)

    def blocks(self, one: Running, slot: int) -> float:
        """That its KV takes."""
        return one.context_tokens / float(self.fleet.block_tokens[slot])

    def _count(self, one: Running, slot: int, change: int) -> None:
        key = (one.slo.tpot_s, one.slo.miss_cost)
        self.there[slot][key] = self.there[slot].get(key, 0) + change

    def _miss(self, slot: int, more_s: float, tpot_s: float, miss_cost: float) -> float:
        z = (1.0 - tpot_s / max(float(self.step_s[slot]) + more_s, TINY_S)) * float(self._steepness[slot])
        return miss_cost * (0.5 + 0.5 * math.tanh(z))


class _Wish(NamedTuple):
    """One way to relieve a worker; compares by what it saves."""

    gain: float
    to: int
    one: Running


def wished_moves(decoders: Decoders) -> list[Move]:
    """At most HOT_MAX, from the worst worker first."""
    costs = np.array([decoders.cost(slot) for slot in range(decoders.fleet.rows)])
    moves: list[Move] = []
    for slot in costs.argsort()[::-1][:HOT_MAX].tolist():
        if costs[slot] < HOT_MIN:
            break
        wishes = [wish for one in _shortest(decoders.movable[slot]) for wish in _wishes(one, decoders, costs)]
        best = max(wishes, key=lambda wish: wish.gain, default=None)
        if best is not None and best.gain >= GAIN_MIN:
            decoders.move(best.one, best.to)
            moves.append(Move(sequence=best.one.sequence, to=best.to, why=f"saves {best.gain:.2f} of a miss"))
    return moves


def _shortest(movable: Sequence[Running]) -> list[Running]:
    """Of each class the one whose KV is the least to copy."""
    found: dict[str, Running] = {}
    for one in movable:
        if one.slo.name not in found or one.context_tokens < found[one.slo.name].context_tokens:
            found[one.slo.name] = one
    return list(found.values())


def _wishes(one: Running, decoders: Decoders, costs: FloatColumn) -> list[_Wish]:
    """This sequence to each worker that might be better: those with the shortest steps, those who miss least."""
    fleet, source = decoders.fleet, one.slot
    may = [slot for slot in decoders.may.nonzero()[0].tolist() if slot != source and fleet.can_send(source, slot)]
    targets = {*heapq.nsmallest(TARGETS, may, key=decoders.step_s.item), *heapq.nsmallest(TARGETS, may, key=costs.item)}
    relief = decoders.cost(source) - decoders.cost_without(one)
    wishes = []
    for slot in targets:
        own_s, blocks = decoders.own_s(one, slot), decoders.blocks(one, slot)
        if blocks + 1.0 > decoders.free_blocks[slot]:
            continue
        there = decoders.cost(slot, more_s=own_s, more_blocks=blocks) - decoders.cost(slot)
        there += decoders.miss(slot, one.slo, more_s=own_s)
        pause = one.slo.miss_cost * FREEZE_S / one.slo.tpot_s / TOKENS_LEFT
        wishes.append(_Wish(relief - there - pause, slot, one))
    return wishes
