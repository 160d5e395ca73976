"""A worker's life as a table; who may admit work follows from the state alone.

    STARTING --loaded--> READY --drain--> DRAINING --empty--> DRAINED --stop--> STOPPED
        |                  ^                 |                                     ^
        |                  `-----undrain-----'                                     |
        `--------------------------stop (from anywhere)----------------------------'

Pure: no clock, no I/O. Next: `shell.py` feeds it.
"""

from dataclasses import dataclass
from enum import Enum, auto

from sluice.domain.role import Lifecycle
from sluice.domain.transitions import following


class Event(Enum):
    """What can happen to a worker as a whole."""

    LOADED = auto()
    DRAIN = auto()
    UNDRAIN = auto()
    EMPTY = auto()
    STOP = auto()


TRANSITIONS: dict[tuple[Lifecycle, Event], Lifecycle] = {
    (Lifecycle.STARTING, Event.LOADED): Lifecycle.READY,
    (Lifecycle.STARTING, Event.STOP): Lifecycle.STOPPED,
    (Lifecycle.READY, Event.DRAIN): Lifecycle.DRAINING,
    (Lifecycle.READY, Event.STOP): Lifecycle.STOPPED,
    (Lifecycle.DRAINING, Event.DRAIN): Lifecycle.DRAINING,
    (Lifecycle.DRAINING, Event.UNDRAIN): Lifecycle.READY,
    (Lifecycle.DRAINING, Event.EMPTY): Lifecycle.DRAINED,
    (Lifecycle.DRAINING, Event.STOP): Lifecycle.STOPPED,
    (Lifecycle.DRAINED, Event.DRAIN): Lifecycle.DRAINED,
    (Lifecycle.DRAINED, Event.UNDRAIN): Lifecycle.READY,
    (Lifecycle.DRAINED, Event.STOP): Lifecycle.STOPPED,
}


@dataclass(slots=True)
class WorkerLife:
    """The current state of one worker."""

    state: Lifecycle = Lifecycle.STARTING

    def on(self, event: Event) -> Lifecycle:
        """Apply `event`; return the new state. Raises IllegalTransitionError."""
        self.state = following(TRANSITIONS, self.state, event)
        return self.state

    @property
    def admits_work(self) -> bool:
        """Whether new sequences and reservations are accepted."""
        return self.state is Lifecycle.READY
