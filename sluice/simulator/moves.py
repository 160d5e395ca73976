"""What changes while nothing arrives: migrations, role flips, instances that are lost and come back.

Carries out what a policy's tend() wishes, as the product does and under the same restraint: a migration
reserves room, copies while the sequence decodes on, freezes it at the end of a step for the last block, and
gives up silently where there is no room; a flip drains, keeps the weights, and is ready again a moment later.
Decides nothing.
Next: `fleet_run.py`, which owns it.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from sluice.domain.ids import SequenceId
from sluice.domain.role import Role
from sluice.policy.policy import Flip, Move, Policy, Running
from sluice.policy.restraint import WISHES_MAX, InMotion, Restraint
from sluice.policy.running import RunningWhenRead
from sluice.simulator.fleet_view import FleetView
from sluice.simulator.handoffs import Stage
from sluice.simulator.instance import Instance
from sluice.simulator.links import Links
from sluice.simulator.run_options import Failure, Removal, RunOptions
from sluice.simulator.sequence import BlockTable, SimSequence

SPARE_BLOCKS: Final = 2  # beyond what a copied sequence is expected to grow meanwhile
SHORTEST_STEP_S: Final = 1e-3
LOOK_AGAIN_S: Final = 0.1  # while an instance drains before a flip


class MovingStage(Stage, Protocol):
    """What moves need of the run they happen in, beside what handoffs need."""

    view: FleetView
    links: Links

    def lose(self, instance: Instance, now_s: float) -> None:
        """The instance fails now; who was there is placed again."""
        ...


@dataclass(slots=True, eq=False)
class _Migration:
    sequence: SimSequence
    attempt: int
    source: Instance
    target: Instance
    table: BlockTable  # at the target

    @property
    def is_alive(self) -> bool:
        """Whether it still decodes at its source, and its blocks at the target are there."""
        is_here = self.sequence.attempt == self.attempt and self.sequence in self.source.batch
        return is_here and self.table.life == self.target.ledger.life

    @property
    def computed(self) -> int:
        """Tokens whose KV there is, between two steps of the source."""
        return self.sequence.computed + self.source.step - self.sequence.joined_step


class Moves:
    """All moves of one run."""

    def __init__(self, stage: MovingStage, policy: Policy, options: RunOptions) -> None:
        self._stage = stage
        self._policy = policy
        self._options = options
        self._restraint = Restraint(options.restraint)
        self._moving: dict[int, InMotion] = {}  # by index of the sequence
        self._flipping: set[int] = set()  # slots
        self.flips = 0

    @property
    def under_way(self) -> int:
        """Migrations that have not ended."""
        return len(self._moving)

    def tend(self, now_s: float) -> None:
        """Ask the policy, start what it wishes."""
        table = self._stage.view.table
        self._restraint.look(table, now_s=now_s)
        wishes = self._policy.tend(table, RunningWhenRead(self._running), now_s=now_s)[:WISHES_MAX]
        moves = [wish for wish in wishes if isinstance(wish, Move)]
        if moves:
            self._begin(moves, now_s)
        for wish in wishes:
            if isinstance(wish, Flip):
                held = self._restraint.flip(wish, table, flipping=self._flipping, now_s=now_s)
                if held is None:
                    self._flip(self._stage.instances[wish.slot], wish.role, now_s)

    def _running(self) -> list[Running]:
        return [
            Running(
                sequence=SequenceId(sequence.index),
                slot=instance.slot,
                context_tokens=sequence.tokens + instance.step - sequence.joined_step,
                output_tokens=sequence.produced + instance.step - sequence.joined_step,
                slo=sequence.slo,
                worst_gap_s=max(sequence.worst_gap_s, instance.step_now_s),
                is_moving=sequence.index in self._moving,
            )
            for instance in self._stage.instances
            for sequence in instance.batch.members
        ]

    def _begin(self, wishes: list[Move], now_s: float) -> None:
        wanted = {int(wish.sequence) for wish in wishes}
        found = {one.index: one for each in self._stage.instances for one in each.batch.members if one.index in wanted}
        known = {SequenceId(one.index): self._moving.get(one.index) or self._at_rest(one) for one in found.values()}
        under_way = [*self._moving.values()]
        held = self._restraint.moves(wishes, self._stage.view.table, known, under_way=under_way, now_s=now_s)
        for wish, why_not in zip(wishes, held, strict=True):
            if why_not is None:
                self._move(found[int(wish.sequence)], wish, now_s)

    def _at_rest(self, sequence: SimSequence) -> InMotion:
        source = self._stage.instances[sequence.decode_slot]
        tokens = sequence.tokens + source.step - sequence.joined_step
        return InMotion(slot=source.slot, context_tokens=tokens, target=None, can_move=True)

    def fail_at(self, failure: Failure) -> None:
        """Let an instance fail, and come back."""
        instance = self._stage.instances[failure.slot]

        def back(now_s: float) -> None:
            self._stage.view.set_ready(instance, is_ready=True)
            self._stage.view.changed(instance)
            self._stage.wake(instance, now_s)

        def fail(now_s: float) -> None:
            self._stage.view.set_ready(instance, is_ready=False)
            self._stage.lose(instance, now_s)
            self._stage.at(now_s + failure.back_after_s, back)

        self._stage.at(failure.at_s, fail)

    def remove_at(self, removal: Removal) -> None:
        """Drain an instance for good."""
        instance = self._stage.instances[removal.slot]

        def look(now_s: float) -> None:
            if instance.is_empty:
                instance.paid_until_s = now_s
            else:
                self._stage.at(now_s + LOOK_AGAIN_S, look)

        def drain(now_s: float) -> None:
            self._stage.view.set_ready(instance, is_ready=False)
            self._stage.place_again(instance.prefills.withdraw_waiting(), now_s)
            look(now_s)

        self._stage.at(removal.at_s, drain)

    # ---- migration

    def _move(self, sequence: SimSequence, wish: Move, now_s: float) -> None:
        source, target = self._stage.instances[sequence.decode_slot], self._stage.instances[wish.to]
        tokens = sequence.computed + max(0, source.step - sequence.joined_step)
        copy_s = tokens * source.spec.kv_token_bytes / source.spec.link_bytes_per_s
        growth = SPARE_BLOCKS * target.spec.block_tokens + int(2 * copy_s / max(source.step_now_s, SHORTEST_STEP_S))
        table = self._stage.reserve(target, sequence, tokens=tokens + growth, now_s=now_s)
        if table is None:
            return
        self._moving[sequence.index] = InMotion(slot=source.slot, context_tokens=tokens, target=wish.to, can_move=False)
        target.incoming += 1
        move = _Migration(sequence, sequence.attempt, source, target, table)
        arrives_s = self._stage.links.send(source, target, tokens=tokens, ready_s=now_s, since_s=now_s, parts=1)
        self._stage.at(arrives_s, lambda time_s: self._freeze(move, time_s))

    def _freeze(self, move: _Migration, now_s: float) -> None:
        """The copy has caught up but for the last tokens: stop at the end of the step that runs."""
        if not move.is_alive:
            self._give_up(move, now_s)
            return
        self._stage.after_step(move.source, lambda time_s: self._hand_over(move, time_s))
        self._stage.wake(move.source, now_s)

    def _hand_over(self, move: _Migration, now_s: float) -> None:
        """Between two steps of the source."""
        sequence, source, target = move.sequence, move.source, move.target
        if not move.is_alive or move.computed > move.table.blocks * target.spec.block_tokens:
            self._give_up(move, now_s)
            return
        source.detach(sequence)
        source.release(sequence.table)
        tail = target.spec.block_tokens
        arrives_s = self._stage.links.send(source, target, tokens=tail, ready_s=now_s, since_s=now_s, parts=1)
        self._stage.at(arrives_s, lambda time_s: self._attach(move, time_s))

    def _attach(self, move: _Migration, now_s: float) -> None:
        sequence, target, table = move.sequence, move.target, move.table
        del self._moving[sequence.index]
        target.incoming -= 1
        if table.life != target.ledger.life:
            self._stage.place_again([sequence], now_s)
            return
        exact = -(-sequence.computed // target.spec.block_tokens)
        target.ledger.drop((), private=table.blocks - exact)
        table.blocks = exact
        sequence.decode_slot = target.slot
        sequence.moves += 1
        target.attach(sequence, table)
        self._stage.wake(target, now_s)

    def _give_up(self, move: _Migration, now_s: float) -> None:
        del self._moving[move.sequence.index]
        move.target.incoming -= 1
        move.target.release(move.table)
        self._stage.wake(move.target, now_s)

    # ---- flips

    def _flip(self, instance: Instance, role: Role, now_s: float) -> None:
        self._flipping.add(instance.slot)
        self._stage.view.set_ready(instance, is_ready=False)
        self._stage.place_again(instance.prefills.withdraw_waiting(), now_s)
        self._when_empty(instance, role, now_s)

    def _when_empty(self, instance: Instance, role: Role, now_s: float) -> None:
        if not instance.is_empty:
            self._stage.at(now_s + LOOK_AGAIN_S, lambda time_s: self._when_empty(instance, role, time_s))
            return

        def ready(_time_s: float) -> None:
            instance.role = role
            self.flips += 1
            self._flipping.discard(instance.slot)
            self._stage.view.set_role(instance)
            self._stage.view.set_ready(instance, is_ready=True)
            self._stage.view.changed(instance)

        self._stage.at(now_s + self._options.flip_s, ready)
