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
    """What handoffs need of the run they happen in."""

    @property
    def instances(self) -> Sequence[Instance]:
        """All replicas, by slot."""
        ...

    def at(self, time_s: float, handler: Callable[[float], None]) -> None:
        """Call `handler` then."""
        ...

    def wake(self, instance: Instance, now_s: float) -> None:
        """Something came to this instance, or left it."""
        ...

    def expect_end(self, instance: Instance) -> None:
        """This instance's planned steps end earlier than announced."""
        ...


@dataclass(slots=True, eq=False)
class _Handoff:
    sequence: SimSequence
    attempt: int
    source: Instance
    target: Instance
    since_s: float  # room at the target from then on
    table: BlockTable | None  # at the target; None: no room yet


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
        table = self._reserve(target, sequence, sequence.tokens, now_s)
        self._reserved[sequence.index] = _Handoff(sequence, sequence.attempt, source, target, now_s, table)
        if table is not None:
            self.room_at(target, now_s)  # what it shares is no longer to be evicted for others

    def prefill_ends(self, sequence: SimSequence, now_s: float) -> None:
        """All its KV is computed and held at its source."""
        handoff = self._reserved.pop(sequence.index)
        if handoff.table is None:
            handoff.table = self._reserve(handoff.target, sequence, sequence.computed, now_s)
            handoff.since_s = now_s
        if handoff.table is None:
            self._for_room.setdefault(handoff.target.slot, deque()).append(handoff)
        else:
            self._send(handoff, now_s)

    def room_at(self, target: Instance, now_s: float) -> None:
        """Something has left `target`: those who wait for it are tried in order."""
        waiting = self._for_room.get(target.slot)
        while waiting:
            handoff = waiting[0]
            handoff.table = self._reserve(target, handoff.sequence, handoff.sequence.computed, now_s)
            if handoff.table is None:
                return
            waiting.popleft()
            handoff.since_s = now_s
            self._send(handoff, now_s)

    def lose(self, instance: Instance) -> list[SimSequence]:
        """An instance has failed: returns the sequences held for it or by it; whoever prefills goes on alone."""
        lost = [*self._for_room.pop(instance.slot, ())]
        for waiting in self._for_room.values():
            gone = [handoff for handoff in waiting if handoff.source is instance]
            for handoff in gone:
                waiting.remove(handoff)
            lost += gone
        for handoff in lost:
            if handoff.source is not instance:
                handoff.source.release(handoff.sequence.table)
        return [handoff.sequence for handoff in lost]

    def _ends(self, sequence: SimSequence) -> tuple[Instance, Instance]:
        return self._stage.instances[sequence.prefill_slot], self._stage.instances[sequence.decode_slot]

    def _reserve(self, target: Instance, sequence: SimSequence, tokens: int, now_s: float) -> BlockTable | None:
        ends_s = target.ends_s
        table = target.reserve(sequence, tokens=tokens, now_s=now_s)
        if target.ends_s < ends_s:
            self._stage.expect_end(target)
        return table

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
        if sequence.attempt != handoff.attempt:
            return  # a failure took it elsewhere
        assert handoff.table is not None
        source.release(sequence.table)
        target.incoming -= 1
        target.attach(sequence, handoff.table)
        self.room_at(target, now_s)  # those who share its prefix need less room now
        self._stage.wake(target, now_s)
        self._stage.wake(source, now_s)
