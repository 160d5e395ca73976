"""Sequences on their way from the instance that prefilled them to the one that decodes them.

Room at the target is asked for when the prompt starts, not while it queues; a target without room is
asked again when something leaves it, and the prompt's blocks wait where they are. The order of events
is that of the product (DESIGN's road of a request, steps 5 to 7); bytes and leases are not modelled.
Next: `links.py` for how long it takes, `fleet_run.py`, which owns this.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sluice.simulator.instance import Instance
from sluice.simulator.links import Links
from sluice.simulator.sequence import BlockTable, SimSequence

LAYER_GROUPS: Final = 8  # pushed one by one while later ones compute


class Stage(Protocol):
    """What handoffs and moves need of the run they happen in."""

    @property
    def instances(self) -> Sequence[Instance]:
        """All replicas, by slot."""
        ...

    def at(self, time_s: float, handler: Callable[[float], None]) -> None:
        """Call `handler` then."""
        ...

    def after_step(self, instance: Instance, handler: Callable[[float], None]) -> None:
        """Call `handler` when the step that runs there has ended, before the next."""
        ...

    def wake(self, instance: Instance, now_s: float) -> None:
        """Something came to this instance, or left it."""
        ...

    def reserve(self, instance: Instance, sequence: SimSequence, *, tokens: int, now_s: float) -> BlockTable | None:
        """Instance.reserve; its planned steps may end earlier for it."""
        ...

    def place_again(self, sequences: Sequence[SimSequence], now_s: float) -> None:
        """These run nowhere any more and hold nothing."""
        ...


@dataclass(slots=True, eq=False)
class _Handoff:
    sequence: SimSequence
    source: Instance
    target: Instance
    since_s: float  # room at the target from then on
    table: BlockTable | None  # at the target; None: no room yet
    lives: tuple[int, int]  # of source and target: what is lost in a failure cannot be handed over

    @property
    def is_alive(self) -> bool:
        """Whether neither end has failed."""
        return self.lives == (self.source.ledger.life, self.target.ledger.life)


class Handoffs:
    """All handoffs under way."""

    def __init__(self, stage: Stage, links: Links, *, is_overlapped: bool) -> None:
        self._stage = stage
        self._links = links
        self._parts = LAYER_GROUPS if is_overlapped else 1
        self._reserved: dict[int, _Handoff] = {}  # by index of the sequence: prefilling
        self._for_room: dict[int, deque[_Handoff]] = {}  # by target: prefilled, without room

    def prefill_starts(self, sequence: SimSequence, now_s: float) -> None:
        """Ask the target for room."""
        source, target = self._ends(sequence)
        table = self._stage.reserve(target, sequence, tokens=sequence.tokens, now_s=now_s)
        lives = source.ledger.life, target.ledger.life
        self._reserved[sequence.index] = _Handoff(sequence, source, target, now_s, table, lives)
        if table is not None:
            self.room_at(target, now_s)  # what it shares is no longer to be evicted for others

    def prefill_ends(self, sequence: SimSequence, now_s: float) -> None:
        """All its KV is computed and held at its source."""
        handoff = self._reserved.pop(sequence.index)
        if not handoff.is_alive:
            self._start_over(handoff, now_s)
            return
        if handoff.table is None:
            self._ask_again(handoff, now_s)
        if handoff.table is None:
            self._for_room.setdefault(handoff.target.slot, deque()).append(handoff)
        else:
            self._send(handoff, now_s)

    def room_at(self, target: Instance, now_s: float) -> None:
        """Something has left `target`: those who wait for it are tried in order."""
        waiting = self._for_room.get(target.slot)
        while waiting:
            handoff = waiting[0]
            if not handoff.is_alive:
                waiting.popleft()
                self._start_over(handoff, now_s)
                continue
            self._ask_again(handoff, now_s)
            if handoff.table is None:
                return
            waiting.popleft()
            self._send(handoff, now_s)

    def abandon(self, sequence: SimSequence) -> None:
        """It will not be prefilled where it is: its target need not wait for it."""
        handoff = self._reserved.pop(sequence.index, None)
        target = self._stage.instances[sequence.decode_slot]
        if handoff is not None and handoff.table is not None:
            target.release(handoff.table)
        if sequence.is_held:
            target.incoming -= 1
            sequence.is_held = False

    def _ask_again(self, handoff: _Handoff, now_s: float) -> None:
        tokens = handoff.sequence.computed
        handoff.table = self._stage.reserve(handoff.target, handoff.sequence, tokens=tokens, now_s=now_s)
        handoff.since_s = now_s

    def _start_over(self, handoff: _Handoff, now_s: float) -> None:
        """One end has failed: whatever the other still holds is given up."""
        handoff.source.release(handoff.sequence.table)
        if handoff.table is not None:
            handoff.target.release(handoff.table)
        handoff.target.incoming -= 1
        handoff.sequence.is_held = False
        self._stage.place_again([handoff.sequence], now_s)

    def _ends(self, sequence: SimSequence) -> tuple[Instance, Instance]:
        return self._stage.instances[sequence.prefill_slot], self._stage.instances[sequence.decode_slot]

    def _send(self, handoff: _Handoff, now_s: float) -> None:
        assert handoff.table is not None
        cached = len(handoff.table.held_ids) * handoff.target.spec.unit_tokens
        arrives_s = self._links.send(
            handoff.source,
            handoff.target,
            tokens=max(0, handoff.sequence.computed - cached),
            ready_s=now_s,
            since_s=handoff.since_s,
            parts=self._parts,
        )

        def commit(time_s: float) -> None:
            self._commit(handoff, time_s)

        self._stage.at(arrives_s, commit)

    def _commit(self, handoff: _Handoff, now_s: float) -> None:
        sequence, source, target = handoff.sequence, handoff.source, handoff.target
        if not handoff.is_alive:
            self._start_over(handoff, now_s)
            return
        assert handoff.table is not None
        source.release(sequence.table)
        target.incoming -= 1
        target.attach(sequence, handoff.table)
        self.room_at(target, now_s)  # those who share its prefix need less room now
        self._stage.wake(target, now_s)
        self._stage.wake(source, now_s)
