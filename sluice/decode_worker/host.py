"""What arrivals ask of whoever they arrive at: the shell over an engine, or an embedding store's keeper.

Next: `arrivals.py`; `worker/shell.py` and `prefill_worker/viewing.py` are the two hosts.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from sluice.domain.ids import BlockHash, Epoch, SequenceId
from sluice.domain.load import WorkerInfo
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import Reservation
from sluice.worker.standing import Standing

T = TypeVar("T")


class Pool(Protocol):
    """Where received bytes lie; `engine.contract.Engine` documents each method."""

    def reserve(self, sequence: SequenceId, *, tokens: int, unit_hashes: Sequence[BlockHash]) -> Reservation: ...

    def attach(self, state: SequenceState, *, computed: int) -> None: ...

    def cancel_reservation(self, sequence: SequenceId) -> None: ...


class HostCanary(Protocol):
    """Answers a peer's probe."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """What our own engine answers; empty if that is not known, or not to be compared."""
        ...

    async def go_on(self, state: SequenceState, *, computed: int) -> int:
        """The next token over what has arrived; nothing of it is left afterwards. Raises SluiceError."""
        ...


class HostFabric(Protocol):
    """Hears of probes."""

    def heard(self) -> None:
        """A peer's probe has ended well here."""
        ...


class Host(Protocol):
    """Whose sequences these are."""

    @property
    def standing(self) -> Standing: ...

    @property
    def info(self) -> WorkerInfo: ...

    @property
    def canary(self) -> HostCanary: ...

    @property
    def fabric(self) -> HostFabric: ...

    def now_s(self) -> float:
        """A clock that only grows."""
        ...

    async def ask(self, question: Callable[[Pool], T]) -> T:
        """Ask the pool. Raises what the question raises."""
        ...

    def epoch_of(self, sequence: SequenceId) -> Epoch | None:
        """The epoch under which the sequence lives here, if it does."""
        ...

    def adopt(self, state: SequenceState) -> bool:
        """A sequence is about to be attached; False if nobody here could go on with it."""
        ...

    def disown(self, sequence: SequenceId) -> None:
        """It was adopted and did not come to be."""
        ...

    def note_empty(self) -> None:
        """A reservation has ended."""
        ...

    def give_up_worker(self, why: str) -> None:
        """Only a restart of the process can mend this."""
        ...
