"""A policy that cannot leave things alone: it places as Joint does, and wishes moves and flips at random.

Half of what it wishes makes no sense: the router must hold that back, and carry out the rest unnoticed.
Next: `random_run.py`.
"""

import random
from collections.abc import Mapping, Sequence

from sluice.domain.ids import SequenceId
from sluice.domain.role import Role
from sluice.policy.fleet_table import FleetTable
from sluice.policy.joint import Joint
from sluice.policy.policy import Ask, Flip, Move, Placed, Running, Unplaced

MOVES = 0.3  # chance, per sequence and look
FLIPS = 0.2  # chance that a look begins to wish for a flip
INSISTS = 12  # looks for which the same flip is wished again


class Restless:
    """One router's. Equal seeds wish equally."""

    name = "restless"

    def __init__(self, seed: int, *, split_tokens_min: int = 2) -> None:
        self._joint = Joint(split_tokens_min=split_tokens_min)
        self._rng = random.Random(f"restless {seed}")
        self._flip: Flip | None = None
        self._left = 0

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """See Policy."""
        return self._joint.place(ask, fleet, cached_tokens, now_s=now_s)

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """Anything to anywhere, strangers and itself included; and one flip for as long as a second."""
        rng = self._rng
        wishes: list[Move | Flip] = [
            Move(sequence=one.sequence, to=rng.randrange(-1, fleet.rows + 1), why=f"at {now_s:.1f}, for no reason")
            for one in running
            if rng.random() < MOVES
        ]
        if wishes and rng.random() < MOVES:
            wishes += [wishes[0], Move(sequence=SequenceId(1), to=0, why="nobody knows it")]
        self._left -= 1
        if self._left <= 0:
            self._flip = None
            if rng.random() < FLIPS:
                self._flip = Flip(slot=rng.randrange(fleet.rows + 1), role=rng.choice(list(Role)), why="on a whim")
                self._left = INSISTS
        return wishes if self._flip is None else [*wishes, self._flip]
