"""Everything that decodes, as a policy's `tend` is given it: made only when the policy looks, and most never do.

Whoever owns the sequences says how they are made. Decides nothing. Next: `policy.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import overload

from sluice.policy.policy import Running


class RunningWhenRead(Sequence[Running]):
    """What `make` returns, asked for at most once."""

    def __init__(self, make: Callable[[], list[Running]]) -> None:
        self._make = make
        self._made: list[Running] | None = None

    def __len__(self) -> int:
        return len(self._all())

    @overload
    def __getitem__(self, index: int) -> Running: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Running]: ...
    def __getitem__(self, index: int | slice) -> Running | Sequence[Running]:
        return self._all()[index]

    def __iter__(self) -> Iterator[Running]:
        return iter(self._all())

    def _all(self) -> list[Running]:
        if self._made is None:
            self._made = self._make()
        return self._made
