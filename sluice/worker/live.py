"""One sequence that lives on a worker: for which router, under which epoch, and what it has said here.

Holds, never decides. Next: `orphans.py`, for those whose router is lost; `shell.py`, who owns all.
"""

from dataclasses import dataclass, field, replace
from typing import Protocol

from sluice.domain.ids import Epoch, RouterId
from sluice.domain.role import FinishReason
from sluice.domain.sequence import SequenceState
from sluice.wire.gen import sluice_pb2 as pb


class Hearer(Protocol):
    """Whoever is told what becomes of a sequence."""

    def send(self, message: pb.WorkerMessage) -> None: ...


@dataclass(slots=True)
class Live:
    """A sequence whose tokens this worker may emit.

    `state` is the sequence as it came here; the engine runs it under that state's epoch. `router`
    and `epoch` are its present owner's: another router may have adopted it since.
    """

    state: SequenceState
    link: Hearer
    router: RouterId
    epoch: Epoch
    is_handoff: bool
    output: list[int] = field(default_factory=list)  # tokens chosen here
    finish: FinishReason | None = None

    def now(self) -> SequenceState:
        """The sequence as it is by now, under its present owner."""
        return self.owned(replace(self.state, tokens=(*self.state.tokens, *self.output)))

    def owned(self, state: SequenceState) -> SequenceState:
        """The engine's `state` of it, under its present owner."""
        return replace(state, router=self.router, epoch=self.epoch)
