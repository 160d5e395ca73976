"""Which tokens of which layer groups can be pushed now: the bookkeeping of one transfer.

Pure. The engine says what it has written, the receiver says what it already has, and `take`
names each byte exactly once:

    group 0  |cached|=====pushed=====|--written, not taken--|            |
    group 1  |cached|=====pushed==|---written---|                        |
             0                                                       total tokens

Until all tokens are known and written only whole source blocks are pushed, so that a block is not
sent in splinters; the last push rounds up to the end of the block, which both sides own whole.
Next: `outbound.py`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens [first, end) of one layer group."""

    group: int
    first: int
    end: int


class PushProgress:
    """What of a sequence's KV has been written here and taken for pushing."""

    def __init__(self, *, groups: int, block_tokens: int, total_tokens: int | None = None) -> None:
        """`total_tokens` is how many there will be; None while a running sequence goes on growing."""
        self._total = total_tokens
        self._block_tokens = block_tokens
        self._written = [0] * groups
        self._taken = [0] * groups

    def wrote(self, group: int, *, end: int) -> None:
        """Tokens up to `end` are written in `group`."""
        self._written[group] = max(self._written[group], end)

    def wrote_all(self, *, end: int) -> None:
        """Tokens up to `end` are written in every group."""
        for group in range(len(self._written)):
            self.wrote(group, end=end)

    def seal(self, *, end: int) -> None:
        """There are `end` tokens, all written, and there will be no more."""
        self._total = end
        self.wrote_all(end=end)

    def start_over(self, *, cached_tokens: int) -> None:
        """A (new) receiver has the first `cached_tokens` tokens and needs all others."""
        self._taken = [cached_tokens] * len(self._taken)

    def take(self, *, end_block_tokens: int) -> list[Stretch]:
        """What can be pushed now and has not been taken; `end_block_tokens` rounds the very last token up."""
        stretches = []
        for group, written in enumerate(self._written):
            is_complete = written == self._total
            end = written if is_complete else written - written % self._block_tokens
            first = self._taken[group]
            if end > first:
                self._taken[group] = end
                rounded = -(-end // end_block_tokens) * end_block_tokens if is_complete else end
                stretches.append(Stretch(group, first, rounded))
        return stretches

    @property
    def is_all_taken(self) -> bool:
        """Whether every token of every group has been taken or was cached at the receiver."""
        return self._total is not None and min(self._taken) >= self._total

    @property
    def left_tokens(self) -> int:
        """Written tokens that have not been taken, in the group that lags most."""
        return max(written - taken for written, taken in zip(self._written, self._taken, strict=True))
