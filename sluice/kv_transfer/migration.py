"""One migration, as a table: the worker that runs a sequence moves it away while running it.

This file decides; it never acts. The source feeds it what happened and carries out the effects
it gets back, in order. A missing row raises. docs/migration.md is drawn from this table.
The target's side is the RECEIVER table of `handoff.py`, by way of PARKED.

    RESERVING -> COPYING -> FROZEN -> COMMITTING -> READY --router grants the target--> MOVED
        |           |          |          |            |
        |      LETTING_GO <----'          |            `--the router says no--.
        `-----------`---------------------`-----------------------------------+--> STAYED

Why the router has the last word: until it grants the next epoch the target owns nothing, so
everything that goes wrong before leaves the sequence here, decoding. Only READY waits: whether
the grant happened is the router's to say, never ours to guess.
Why nothing is undone on the source: KV that is written never changes, decoding only adds to it;
a push that still runs after LETTING_GO reads what it always would have read.
Next: `decode_worker/moving.py`, which drives it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from sluice.domain.transitions import following


class SourceState(Enum):
    """Where a migration is, seen by the worker that runs the sequence."""

    RESERVING = "reserving"  # asked the target for room; the sequence runs
    COPYING = "copying"  # full blocks are pushed in rounds; the sequence runs
    FROZEN = "frozen"  # the rest is pushed; the sequence stands still
    COMMITTING = "committing"  # every byte is there; the target is told the whole state
    READY = "ready"  # the target has all of it; the router grants, or says no
    LETTING_GO = "letting go"  # given up; the sequence runs, pushes may too
    ENDING = "ending"  # the sequence is over; pushes may still run
    MOVED = "moved"  # the target owns the sequence
    STAYED = "stayed"  # the sequence goes on here
    ENDED = "ended"  # the sequence was over before it could move


class SourceEvent(Enum):
    """What may happen to a source."""

    RESERVE_GRANTED = "reserve granted"
    RESERVE_REFUSED = "reserve refused"
    RESERVE_LOST = "reserve lost"  # no answer: the target may or may not hold blocks for us
    LITTLE_LEFT = "little left"  # what is not copied fits in a moment
    PUSHES_DONE = "pushes done"  # every push is terminal and DONE
    PUSH_FAILED = "push failed"
    LEASE_LOST = "lease lost"
    PREEMPTED = "preempted"  # its KV is gone: there is nothing to move
    WRITES_STOPPED = "writes stopped"  # after giving up: every push is terminal
    COMMIT_ACCEPTED = "commit accepted"
    COMMIT_REFUSED = "commit refused"
    COMMIT_LOST = "commit lost"  # no answer; harmless, since a commit grants nothing
    DENIED = "denied"  # the router did not grant and will not
    OVER = "over"  # finished, cancelled, or owned by the target now


class SourceEffect(Enum):
    """What the source must do."""

    START_PUSHES = "start pushes"
    FREEZE = "freeze"
    UNFREEZE = "unfreeze"
    STOP_PUSHES = "stop pushes"
    SEND_COMMIT = "send commit"
    DROP_RESERVATION = "drop reservation"  # tell the target that we write no more; best effort
    REPORT_READY = "report ready"
    REPORT_REFUSED = "report refused"
    REPORT_FAILED = "report failed"


Row: TypeAlias = tuple[SourceState, tuple[SourceEffect, ...]]

_S, _E, _X = SourceState, SourceEvent, SourceEffect
_LET_GO: Final = (_X.DROP_RESERVATION, _X.REPORT_FAILED)

SOURCE: Final[Mapping[tuple[SourceState, SourceEvent], Row]] = {
    (_S.RESERVING, _E.RESERVE_GRANTED): (_S.COPYING, (_X.START_PUSHES,)),
    (_S.RESERVING, _E.RESERVE_REFUSED): (_S.STAYED, (_X.REPORT_REFUSED,)),
    (_S.RESERVING, _E.RESERVE_LOST): (_S.STAYED, _LET_GO),
    (_S.RESERVING, _E.OVER): (_S.ENDED, (_X.DROP_RESERVATION,)),
    (_S.COPYING, _E.LITTLE_LEFT): (_S.FROZEN, (_X.FREEZE, _X.START_PUSHES)),
    (_S.COPYING, _E.PUSH_FAILED): (_S.LETTING_GO, (_X.STOP_PUSHES,)),
    (_S.COPYING, _E.LEASE_LOST): (_S.LETTING_GO, (_X.STOP_PUSHES,)),
    (_S.COPYING, _E.PREEMPTED): (_S.LETTING_GO, (_X.STOP_PUSHES,)),
    (_S.COPYING, _E.OVER): (_S.ENDING, (_X.STOP_PUSHES,)),
    (_S.FROZEN, _E.PUSHES_DONE): (_S.COMMITTING, (_X.SEND_COMMIT,)),
    (_S.FROZEN, _E.PUSH_FAILED): (_S.LETTING_GO, (_X.UNFREEZE, _X.STOP_PUSHES)),
    (_S.FROZEN, _E.LEASE_LOST): (_S.LETTING_GO, (_X.UNFREEZE, _X.STOP_PUSHES)),
    (_S.FROZEN, _E.OVER): (_S.ENDING, (_X.STOP_PUSHES,)),
    (_S.COMMITTING, _E.COMMIT_ACCEPTED): (_S.READY, (_X.REPORT_READY,)),
    (_S.COMMITTING, _E.COMMIT_REFUSED): (_S.STAYED, (_X.UNFREEZE, *_LET_GO)),
    (_S.COMMITTING, _E.COMMIT_LOST): (_S.STAYED, (_X.UNFREEZE, *_LET_GO)),
    (_S.COMMITTING, _E.OVER): (_S.ENDED, (_X.DROP_RESERVATION,)),
    (_S.READY, _E.DENIED): (_S.STAYED, (_X.UNFREEZE, _X.DROP_RESERVATION)),
    # The grant may reach the target after this: dropping its reservation would lose the sequence.
    (_S.READY, _E.OVER): (_S.MOVED, ()),
    (_S.LETTING_GO, _E.WRITES_STOPPED): (_S.STAYED, _LET_GO),
    (_S.ENDING, _E.WRITES_STOPPED): (_S.ENDED, (_X.DROP_RESERVATION,)),
}

SOURCE_ENDS: Final = frozenset({_S.MOVED, _S.STAYED, _S.ENDED})


@dataclass(slots=True)
class Migration:
    """The current state of one migration at its source."""

    state: SourceState = SourceState.RESERVING

    @property
    def has_ended(self) -> bool:
        """Whether nothing may be fed to it any more."""
        return self.state in SOURCE_ENDS

    def on(self, event: SourceEvent) -> tuple[SourceEffect, ...]:
        """Apply `event`; returns what to do now, in order. Raises IllegalTransitionError."""
        self.state, effects = following(SOURCE, self.state, event)
        return effects
