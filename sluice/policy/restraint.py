"""Which of a policy's wishes are carried out now: bounds, rests and hysteresis, the same for every policy.

A policy says every 100 ms what it would move or flip; it does not see what its earlier wishes led to before
workers report again. So a sequence moves once at a time and then rests, a worker takes part in few moves
at once, and a role changes only when it has been wished for a while, one worker at a time, and never the
last one of its phase. Pure but for what it remembers. Next: `policy.py`.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from sluice.domain.ids import SequenceId, WorkerId
from sluice.domain.role import Role
from sluice.policy.fleet_table import DECODE_BIT, PREFILL_BIT, ROLE_BITS, FleetTable
from sluice.policy.policy import Flip, Move

WISHES_MAX: Final = 256
"""Of one look; a policy that wishes more is cut off."""

RESTING_MAX: Final = 4096
"""Sequences whose latest move is remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestraintLimits:
    """Bounds of what a policy may change by itself."""

    moves_max: int = 32  # under way at a time; 0: nothing moves
    worker_moves_max: int = 4  # of them from, or to, one worker
    move_rest_s: float = 3.0  # of a sequence between two moves
    flips_max: int = 1  # workers that change their role at a time; 0: roles stay
    flip_rest_s: float = 15.0  # of a worker after its role has changed, whoever changed it
    flip_wished_s: float = 0.5  # a flip is wished for this long before it begins
    flip_forget_s: float = 0.35  # a wish not repeated within this is over


class Held(Enum):
    """Why a wish is not carried out now."""

    OFF = "off"  # the settings allow none
    UNFIT = "unfit"  # the worker named is not ready, does not do that work, or has no room
    BUSY = "busy"  # as many are under way as may be
    RESTING = "resting"  # it has just moved, or changed its role
    WAVERING = "wavering"  # not wished for long enough
    NEEDED = "needed"  # nobody else would do that phase


@dataclass(frozen=True, slots=True, kw_only=True)
class InMotion:
    """A sequence that can be moved, or is being moved, as its owner knows it."""

    slot: int
    context_tokens: int
    target: int | None  # being moved there
    can_move: bool
    barred: AbstractSet[int] = frozenset()  # slots that failed it, or cannot serve it


class Restraint:
    """One router's, or one simulated fleet's, memory of what was changed lately."""

    def __init__(self, limits: RestraintLimits | None = None) -> None:
        self.limits = limits or RestraintLimits()
        self._moved_s: OrderedDict[SequenceId, float] = OrderedDict()
        self._workers: list[WorkerId] = []  # by slot, as last seen
        self._role_bits: list[int] = []
        self._role_since_s: list[float] = []
        self._wished_s: dict[tuple[int, Role], tuple[float, float]] = {}  # first and latest

    def look(self, fleet: FleetTable, *, now_s: float) -> None:
        """Notice whose role has changed. Call before asking, every time."""
        bits = fleet.role_bits[: fleet.rows].tolist()
        if bits != self._role_bits or fleet.workers != self._workers:
            self._role_since_s = [
                self._role_since(slot, fleet.workers[slot], bits[slot], now_s) for slot in range(fleet.rows)
            ]
            self._role_bits, self._workers = bits, [*fleet.workers]
        over_s = now_s - self.limits.flip_forget_s
        self._wished_s = {wish: seen for wish, seen in self._wished_s.items() if seen[1] >= over_s}

    def _role_since(self, slot: int, worker: WorkerId, bits: int, now_s: float) -> float:
        if slot >= len(self._workers) or self._workers[slot] != worker:
            return -math.inf  # new here: it need not rest
        return self._role_since_s[slot] if self._role_bits[slot] == bits else now_s

    def moves(
        self,
        wishes: Sequence[Move],
        fleet: FleetTable,
        known: Mapping[SequenceId, InMotion],
        *,
        under_way: Sequence[InMotion],
        now_s: float,
    ) -> list[Held | None]:
        """For each wish None when it may begin now, and then it is taken to begin, or why not.

        `known` has the sequences the wishes name; `under_way` everything being moved, for whatever reason.
        """
        busy = Counter[int]()
        for moving in under_way:
            busy.update([moving.slot] if moving.target is None else [moving.slot, moving.target])
        answers = list[Held | None]()
        total, begun = len(under_way), set[SequenceId]()
        for wish in wishes:
            one = known.get(wish.sequence)
            if one is None or wish.sequence in begun:
                answers.append(Held.UNFIT)
                continue
            held = self._move(wish, one, fleet, busy, total=total, now_s=now_s)
            answers.append(held)
            if held is None:
                begun.add(wish.sequence)
                total += 1
                busy.update([one.slot, wish.to])
                self._moved_s[wish.sequence] = now_s
                self._moved_s.move_to_end(wish.sequence)
                if len(self._moved_s) > RESTING_MAX:
                    self._moved_s.popitem(last=False)
        return answers

    def _move(
        self, wish: Move, one: InMotion, fleet: FleetTable, busy: Counter[int], *, total: int, now_s: float
    ) -> Held | None:
        limits, to = self.limits, wish.to
        if not limits.moves_max:
            return Held.OFF
        if not one.can_move or not 0 <= to < fleet.rows or to == one.slot:
            return Held.UNFIT
        if to in one.barred or not fleet.can_send(one.slot, to):
            return Held.UNFIT
        blocks = -(-one.context_tokens // int(fleet.block_tokens[to])) + 1
        can_decode = bool(fleet.is_ready[to]) and bool(fleet.role_bits[to] & DECODE_BIT)
        if not can_decode or fleet.free_blocks[to] < blocks or fleet.sequence_tokens_max[to] <= one.context_tokens:
            return Held.UNFIT
        if total >= limits.moves_max or max(busy[one.slot], busy[to]) >= limits.worker_moves_max:
            return Held.BUSY
        moved_s = self._moved_s.get(wish.sequence)
        return Held.RESTING if moved_s is not None and now_s < moved_s + limits.move_rest_s else None

    def flip(self, wish: Flip, fleet: FleetTable, *, flipping: AbstractSet[int], now_s: float) -> Held | None:
        """None when the flip may begin now, or why not. `flipping`: slots whose role is being changed."""
        limits, slot = self.limits, wish.slot
        if not limits.flips_max:
            return Held.OFF
        if not 0 <= slot < fleet.rows or not fleet.is_ready[slot] or fleet.role_bits[slot] in {0, ROLE_BITS[wish.role]}:
            return Held.UNFIT
        key = (slot, wish.role)
        first_s, _ = self._wished_s.get(key, (now_s, now_s))
        self._wished_s[key] = (first_s, now_s)
        if slot in flipping or len(flipping) >= limits.flips_max:
            return Held.BUSY
        if not _is_covered(fleet, slot, wish.role, flipping):
            return Held.NEEDED
        if now_s < self._role_since_s[slot] + limits.flip_rest_s:
            return Held.RESTING
        return Held.WAVERING if now_s < first_s + limits.flip_wished_s else None


def _is_covered(fleet: FleetTable, slot: int, role: Role, flipping: AbstractSet[int]) -> bool:
    """Whether each phase has a worker while this one changes: it admits nothing until it is done."""
    match role:
        case Role.MIXED:
            return True  # it goes on doing what it does
        case Role.ENCODE:
            return False  # it has no vision tower
        case Role.PREFILL | Role.DECODE:
            gone = {slot, *flipping}
        case _:
            assert_never(role)
    bits = 0
    for other in range(fleet.rows):
        if other not in gone and fleet.is_ready[other]:
            bits |= int(fleet.role_bits[other])
    return bits == PREFILL_BIT | DECODE_BIT
