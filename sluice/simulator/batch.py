"""The sequences one instance decodes, summed: how many, how much context, who is done first.

Nothing here costs time per token or per sequence and step: sequences that cross a block boundary
are counted by residue, those that end are kept in a heap. Decides nothing. Next: `instance.py`.
"""

import heapq
import math
from collections.abc import Iterable
from typing import Final

from sluice.capacity.step_budget import PACE, allowed_s
from sluice.simulator.sequence import NO_STEP, SimSequence

STALE_MAX: Final = 64
"""Entries of sequences that have left, before a heap is swept."""


class DecodeBatch:
    """Sequences that decode one token in every step. Steps are those of their instance."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._members: dict[int, SimSequence] = {}  # by index, in order of joining
        self._finishes: list[tuple[int, int, int]] = []  # (step, index, joined): heap; some have left since
        self._crossings = [0] * block_tokens  # sequences that need a block at steps of this residue
        self.context_tokens = 0  # attended over in the next step
        self._paces: dict[float, list[tuple[float, int, int]]] = {}  # heaps as above by TPOT: (began at, index, joined)
        self.fresh: list[SimSequence] = []  # joined since the last step

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, sequence: SimSequence) -> bool:
        return sequence.index in self._members

    @property
    def members(self) -> Iterable[SimSequence]:
        """All of them, in order of joining."""
        return self._members.values()

    def allowed_s(self, *, step: int, now_s: float) -> float:
        """How long the next step, `step`, may last if nobody is to fall behind the pace it was promised."""
        allowed = math.inf
        for tpot_s, since in self._paces.items():
            while since and not self._is_here(since[0][1], since[0][2]):
                heapq.heappop(since)
            if since:
                ahead_s = since[0][0] + PACE * tpot_s * (step + 1) - now_s
                allowed = min(allowed, allowed_s(tpot_s, ahead_s=ahead_s))
        return allowed

    def join(self, sequence: SimSequence, *, step: int, now_s: float) -> None:
        """Decode from `step` on; all its tokens but the last are computed."""
        assert sequence.output_tokens > sequence.produced
        sequence.joined_step = step
        self._members[sequence.index] = sequence
        last = step + sequence.output_tokens - sequence.produced
        heapq.heappush(self._finishes, (last, sequence.index, step))
        self._crossings[(step - sequence.computed) % self._block_tokens] += 1
        self.context_tokens += sequence.tokens
        self._keep_pace(sequence, step=step, now_s=now_s)
        self.fresh.append(sequence)

    def leave(self, sequence: SimSequence, *, step: int) -> None:
        """Before `step`: brings the sequence's counts up to date."""
        steps = step - sequence.joined_step
        self._crossings[(sequence.joined_step - sequence.computed) % self._block_tokens] -= 1
        sequence.tokens += steps
        sequence.computed += steps
        sequence.produced += steps
        sequence.joined_step = NO_STEP
        del self._members[sequence.index]
        self.context_tokens -= sequence.tokens
        if steps == 0:
            self.fresh.remove(sequence)

    def advance(self, steps: int) -> None:
        """`steps` steps have run."""
        self.context_tokens += steps * len(self._members)
        self.fresh.clear()

    def pop_finished(self, *, step: int) -> list[tuple[SimSequence, int]]:
        """Those whose last token has come before `step`, with the step each joined at; they leave."""
        finished: list[tuple[SimSequence, int]] = []
        finishes = self._finishes
        while finishes and finishes[0][0] <= step:
            _, index, joined = heapq.heappop(finishes)
            sequence = self._members.get(index)
            if sequence is not None and sequence.joined_step == joined:
                self.leave(sequence, step=step)
                finished.append((sequence, joined))
        return finished

    def steps_to_finish(self, *, step: int) -> int:
        """Steps until the first of them is done. There must be one."""
        finishes = self._finishes
        while True:
            last, index, joined = finishes[0]
            if self._is_here(index, joined):
                return last - step
            heapq.heappop(finishes)

    def _keep_pace(self, sequence: SimSequence, *, step: int, now_s: float) -> None:
        """Note when it would have had its token of step 0 at its pace: who is least ahead stays so, step by step."""
        tpot_s = sequence.deadlines.tpot_s
        since = self._paces.setdefault(tpot_s, [])
        if len(since) > STALE_MAX + 2 * len(self._members):
            since[:] = [one for one in since if self._is_here(one[1], one[2])]
            heapq.heapify(since)
        heapq.heappush(since, (now_s - PACE * tpot_s * step, sequence.index, step))

    def _is_here(self, index: int, joined: int) -> bool:
        """Whether a sequence still decodes that joined at this step."""
        sequence = self._members.get(index)
        return sequence is not None and sequence.joined_step == joined

    def blocks_needed(self, *, step: int, steps: int) -> int:
        """New blocks taken in steps [step, step + steps)."""
        rounds, rest = divmod(steps, self._block_tokens)
        needed = rounds * len(self._members)
        if rest:
            first = step % self._block_tokens
            end = first + rest
            needed += sum(self._crossings[first:end])
            if end > self._block_tokens:
                needed += sum(self._crossings[: end - self._block_tokens])
        return needed

    def steps_within(self, blocks: int, *, step: int, steps: int) -> int:
        """The most steps, up to `steps`, that need no more than `blocks` new blocks."""
        if (steps // self._block_tokens + 1) * len(self._members) <= blocks:
            return steps
        low, high = 0, steps
        while low < high:
            middle = (low + high + 1) // 2
            if self.blocks_needed(step=step, steps=middle) <= blocks:
                low = middle
            else:
                high = middle - 1
        return low
