"""The protocol of one sequence as the router sees it: a table of (state, event) to (state, effects).

Pure. `flow.py` feeds it events and carries out the effects.

    QUEUED --placed alone--> ALONE ---------------------- finished --> DONE
       |                       ^ ^
       |      kept here -------' |                       (any) ended --> DONE, workers told
       |         |               |
       |--placed split--> PREFILLING --committed--> DECODING -- finished --> DONE
       '--adopted from an earlier router ------------> DECODING
                           ^     |                     |
              retargeted --'     |target lost          |
                           |     v                     |
                           '- TARGET_GONE              |
    ALONE, DECODING --move--> MOVING --ready: epoch + 1, granted to the target--> DECODING
                                 `--refused, failed, target lost--> DECODING where it was
                                 |                     |
       QUEUED <---owner lost, failed: epoch + 1 -------'  (from every running state)

Why TARGET_GONE: the prefill worker may have committed to a decode worker just before that one
was lost; only its report tells whether it still holds the sequence.
"""

from enum import Enum, auto
from typing import TypeAlias

from sluice.domain.transitions import following


class State(Enum):
    """Where a sequence is."""

    QUEUED = auto()
    ALONE = auto()  # one worker does all that is left
    PREFILLING = auto()  # a prefill worker has it and will hand it off
    TARGET_GONE = auto()  # the same, but the decode worker was lost meanwhile
    DECODING = auto()  # handed off, or moved
    MOVING = auto()  # its worker runs it and copies it to another one
    DONE = auto()


class Event(Enum):
    """What can happen to it."""

    PLACED_ALONE = auto()
    PLACED_SPLIT = auto()
    ADOPTED = auto()  # a worker has it from an earlier router, and goes on for this one
    COMMITTED = auto()
    RETARGETED = auto()  # the handoff did not happen; another decode worker is named
    KEPT_HERE = auto()  # the handoff did not happen; it decodes where it is
    TARGET_LOST = auto()
    OWNER_LOST = auto()
    FAILED = auto()  # the worker gave it up; another may try
    MOVE = auto()  # somebody wants it on another worker
    COPIED = auto()  # all of it is there, and it stands still
    MOVE_OFF = auto()  # it stays where it is
    FINISHED = auto()
    ENDED = auto()  # client gone, deadline, stop string, or no attempt left


class Effect(Enum):
    """What the caller must do, in order."""

    START = auto()
    RETARGET = auto()
    CANCEL = auto()  # tell every worker that may hold it
    MIGRATE = auto()  # tell its worker to copy it to the target
    GRANT = auto()  # the target owns it from now on, under the next epoch
    QUEUE_AGAIN = auto()  # with the next epoch, from the tokens emitted so far
    LEAVE_QUEUE = auto()
    CLOSE = auto()


Row: TypeAlias = tuple[State, tuple[Effect, ...]]

TRANSITIONS: dict[tuple[State, Event], Row] = {
    (State.QUEUED, Event.PLACED_ALONE): (State.ALONE, (Effect.START,)),
    (State.QUEUED, Event.PLACED_SPLIT): (State.PREFILLING, (Effect.START,)),
    (State.QUEUED, Event.ADOPTED): (State.DECODING, ()),
    (State.QUEUED, Event.ENDED): (State.DONE, (Effect.LEAVE_QUEUE, Effect.CLOSE)),
    (State.PREFILLING, Event.COMMITTED): (State.DECODING, ()),
    (State.PREFILLING, Event.RETARGETED): (State.PREFILLING, (Effect.RETARGET,)),
    (State.PREFILLING, Event.KEPT_HERE): (State.ALONE, (Effect.RETARGET,)),
    (State.PREFILLING, Event.TARGET_LOST): (State.TARGET_GONE, ()),
    (State.TARGET_GONE, Event.COMMITTED): (State.QUEUED, (Effect.CANCEL, Effect.QUEUE_AGAIN)),
    (State.TARGET_GONE, Event.RETARGETED): (State.PREFILLING, (Effect.RETARGET,)),
    (State.TARGET_GONE, Event.KEPT_HERE): (State.ALONE, (Effect.RETARGET,)),
    (State.ALONE, Event.MOVE): (State.MOVING, (Effect.MIGRATE,)),
    (State.DECODING, Event.MOVE): (State.MOVING, (Effect.MIGRATE,)),
    (State.MOVING, Event.COPIED): (State.DECODING, (Effect.GRANT,)),
    (State.MOVING, Event.MOVE_OFF): (State.DECODING, ()),
    (State.MOVING, Event.TARGET_LOST): (State.DECODING, ()),
}
RUNNING = (State.ALONE, State.PREFILLING, State.TARGET_GONE, State.DECODING, State.MOVING)
for _state in RUNNING:
    TRANSITIONS[_state, Event.OWNER_LOST] = (State.QUEUED, (Effect.CANCEL, Effect.QUEUE_AGAIN))
    TRANSITIONS[_state, Event.FAILED] = (State.QUEUED, (Effect.CANCEL, Effect.QUEUE_AGAIN))
    TRANSITIONS[_state, Event.FINISHED] = (State.DONE, (Effect.CLOSE,))
    TRANSITIONS[_state, Event.ENDED] = (State.DONE, (Effect.CANCEL, Effect.CLOSE))


def advance(state: State, event: Event) -> Row:
    """The next state and what to do. Raises IllegalTransitionError when the event is not expected."""
    return following(TRANSITIONS, state, event)


def expects(state: State, event: Event) -> bool:
    """Whether `event` is legal now; workers' late reports are checked with this and dropped."""
    return (state, event) in TRANSITIONS
