"""The protocol of showing one image to one prompt: a table of (state, event) to (state, effects).

Pure. `showings.py` feeds it and carries out the effects.

    LOOKING --looked--> SENT --committed--> DONE
       ^                 | ^ `--refused--> PAUSED --time--> SENT        (the target had no room)
       '----- lost ------'-+-----lost-------'
    (any) ended --> DONE, the encode worker told          LOOKING --failed--> DONE, the prompt told
"""

from enum import Enum, auto
from typing import Final, TypeAlias

from sluice.domain.transitions import following


class State(Enum):
    """Where an image is on its way to its reader."""

    LOOKING = auto()  # some encode worker prepares the picture
    SENT = auto()  # an encode worker was told where the embeddings go
    PAUSED = auto()  # the reader's worker had no room; the encode worker holds them
    DONE = auto()


class Event(Enum):
    """What can happen to it."""

    LOOKED = auto()
    COMMITTED = auto()
    REFUSED = auto()
    TIME = auto()
    LOST = auto()  # the encode worker gave it up, or is gone
    FAILED = auto()  # no encode worker can look at the picture, or there were too many attempts
    ENDED = auto()  # nobody will read it


class Effect(Enum):
    """What the caller must do, in order."""

    LOOK = auto()
    SEND = auto()
    SEND_AGAIN = auto()  # the same target, to the encode worker that holds the embeddings
    CANCEL = auto()  # tell the encode worker
    GIVE_UP = auto()  # tell the prompt


Row: TypeAlias = tuple[State, tuple[Effect, ...]]

TRANSITIONS: Final[dict[tuple[State, Event], Row]] = {
    (State.LOOKING, Event.LOOKED): (State.SENT, (Effect.SEND,)),
    (State.LOOKING, Event.FAILED): (State.DONE, (Effect.GIVE_UP,)),
    (State.LOOKING, Event.ENDED): (State.DONE, ()),
    (State.SENT, Event.COMMITTED): (State.DONE, ()),
    (State.SENT, Event.REFUSED): (State.PAUSED, ()),
    (State.PAUSED, Event.TIME): (State.SENT, (Effect.SEND_AGAIN,)),
}
for _state in (State.SENT, State.PAUSED):
    TRANSITIONS[_state, Event.LOST] = (State.LOOKING, (Effect.LOOK,))
    TRANSITIONS[_state, Event.FAILED] = (State.DONE, (Effect.CANCEL, Effect.GIVE_UP))
    TRANSITIONS[_state, Event.ENDED] = (State.DONE, (Effect.CANCEL,))


def advance(state: State, event: Event) -> Row:
    """The next state and what to do. Raises IllegalTransitionError when the event is not expected."""
    return following(TRANSITIONS, state, event)


def expects(state: State, event: Event) -> bool:
    """Whether `event` is legal now; workers' late reports are checked with this and dropped."""
    return (state, event) in TRANSITIONS
