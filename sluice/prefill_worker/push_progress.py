"""Which tokens of which layer groups can be pushed now: the bookkeeping of one handoff.

Pure. The engine says what it has written, the decode worker says what it already has, and
`take` names each byte exactly once:

    group 0  |cached|=====pushed=====|--written, not taken--|            |
    group 1  |cached|=====pushed==|---written---|                        |
             0                                                      prompt_tokens

Until the prompt is complete only whole source blocks are pushed, so that a block is not sent in
splinters; the last push rounds up to the end of the block, which both sides own whole.
Next: `handoffs.py`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens [first, end) of one layer group."""

    group: int
    first: int
    end: int


class PushProgress:
    """What of a prompt's KV has been written here and taken for pushing."""

    def __init__(self, *, groups: int, prompt_tokens: int, block_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._block_tokens = block_tokens
        self._written = [0] * groups
        self._taken = [0] * groups

    def wrote(self, group: int, *, end: int) -> None:
        """Tokens up to `end` are written in `group`."""
        self._written[group] = max(self._written[group], min(end, self._prompt_tokens))

    def wrote_all(self) -> None:
        """The prompt is complete, prefix hits included: nothing more will be written."""
        self._written = [self._prompt_tokens] * len(self._written)

    def start_over(self, *, cached_tokens: int) -> None:
        """A (new) receiver has the first `cached_tokens` tokens and needs all others."""
        self._taken = [cached_tokens] * len(self._taken)

    def take(self, *, end_block_tokens: int) -> list[Stretch]:
        """What can be pushed now and has not been taken; `end_block_tokens` rounds the very last token up."""
        stretches = []
        for group, written in enumerate(self._written):
            is_complete = written == self._prompt_tokens
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
        return all(taken >= self._prompt_tokens for taken in self._taken)
