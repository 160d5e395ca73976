"""Puts one sequence's tokens in order: by index, each exactly once, of the current epoch only.

Token 1 from the decode worker may overtake token 0 from the prefill worker; it is held until
the gap closes. Duplicates and tokens of older epochs vanish. Pure. Next: `flow.py`.
"""

from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from sluice.domain.ids import Epoch

HELD_TOKENS_MAX: Final = 1024

T = TypeVar("T")


class StreamOrder(Generic[T]):
    """The order of one sequence. `next_index` is the index of the first token not yet delivered."""

    __slots__ = ("_held", "epoch", "next_index")

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self.next_index = 0
        self._held: dict[int, T] = {}

    def accept(self, *, epoch: int, index: int, row: T) -> Sequence[T]:
        """The rows that can be delivered now, in order; maybe none."""
        if epoch != self.epoch or index < self.next_index:
            return ()
        if index > self.next_index:
            if len(self._held) < HELD_TOKENS_MAX:
                self._held.setdefault(index, row)
            return ()
        self.next_index = index + 1
        if not self._held:
            return (row,)
        rows = [row]
        while self.next_index in self._held:
            rows.append(self._held.pop(self.next_index))
            self.next_index += 1
        return rows

    @property
    def is_overfull(self) -> bool:
        """Whether so much waits behind a gap that the missing token must be taken for lost."""
        return len(self._held) >= HELD_TOKENS_MAX

    def grant(self, epoch: Epoch, *, next_index: int) -> None:
        """A new owner continues with token `next_index`; what older ones sent ahead is void."""
        assert epoch > self.epoch, "epochs only grow"
        self.epoch = epoch
        self.next_index = next_index
        self._held.clear()
