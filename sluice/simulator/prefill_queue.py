"""Which prompts of one instance are computed next, in which chunks, and who is admitted from the queue.

Decides as `engine/scheduler.py` does: half-done prompts first, then new ones, those due first in front,
while blocks last, each with blocks for its whole prompt; one whose next prefix block is just being
computed by another waits for the hit. Never reads a clock. Next: `instance.py`, which runs the chunks.
"""

from bisect import insort
from collections.abc import Sequence
from typing import Final, NamedTuple

from sluice.capacity.step_model import chunk_pairs
from sluice.simulator.block_ledger import BlockLedger
from sluice.simulator.instance_spec import InstanceSpec, StepOrder
from sluice.simulator.sequence import BlockTable, SimSequence

PASSED_OVER_MAX: Final = 64  # as in engine/scheduler.py


class Chunk(NamedTuple):
    """Part of one prompt, computed in one step."""

    sequence: SimSequence
    tokens: int


class PrefillQueue:
    """Sequences that wait for their prompt to be computed, and those being computed."""

    def __init__(self, spec: InstanceSpec, ledger: BlockLedger) -> None:
        self._spec = spec
        self._ledger = ledger
        self.waiting: list[SimSequence] = []  # these three in order of their turn
        self.prefilling: list[SimSequence] = []
        self.staged: list[SimSequence] = []  # admitted, from the next step on
        self.started: list[SimSequence] = []  # admitted since the owner last looked, who clears it
        self.queued_tokens = 0  # of prompts, not computed yet
        self.queued_pairs = 0.0
        self.computed_tokens = 0
        self._in_flight: dict[int, int] = {}  # hash id -> index of the sequence that computes it
        self._arrivals = 0

    @property
    def prefix_tokens(self) -> int:
        """What is computed of the prompt that is being prefilled first."""
        return next((sequence.computed for sequence in self.prefilling), 0)

    @property
    def running(self) -> int:
        """Sequences being prefilled."""
        return len(self.prefilling) + len(self.staged)

    def enqueue(self, sequence: SimSequence, *, cached_tokens: int) -> None:
        """Wait for its turn. `cached_tokens` is what is expected to be hit."""
        self._line_up(sequence)
        self._queue(sequence, cached_tokens)

    def adopt(self, sequence: SimSequence) -> None:
        """It has arrived with all its KV."""
        self._line_up(sequence)
        self.publish(sequence)

    def requeue(self, sequence: SimSequence) -> None:
        """Wait where it did: it was preempted and has let its blocks go."""
        self._queue(sequence, 0)

    def reserve(self, sequence: SimSequence, *, tokens: int, headroom: int) -> BlockTable | None:
        """Blocks for the KV of `tokens` tokens that come from elsewhere, cached units shared; None without room."""
        usable = self._usable(sequence)
        shared = list(usable[: self._ledger.find(usable)])
        blocks = self._blocks_for(tokens)
        missing = blocks - len(shared) * self._ledger.unit_blocks
        if not self._ledger.can_take(missing + headroom, beside=shared):
            return None
        self._ledger.share(shared)
        self._ledger.take(missing)
        return BlockTable(blocks=blocks, held_ids=shared, published=len(shared), life=self._ledger.life)

    def next_chunks(self, *, decodes: int, budget: int, may_admit: bool) -> list[Chunk]:
        """The prompts' part of the next step, at most `budget` tokens beside `decodes` decodes."""
        spec = self._spec
        if self.staged:
            for sequence in self.staged:
                insort(self.prefilling, sequence, key=_by_order)
            self.staged = []
        is_alone = spec.step_order is StepOrder.PREFILL_FIRST
        chunks: list[Chunk] = []
        for sequence in self.prefilling:
            if budget > 0:
                budget -= _take_chunk(sequence, budget, chunks)
        if not (may_admit and self.waiting):
            return chunks
        if not spec.is_ahead or (not chunks and decodes == 0):
            for sequence in self._admit(budget, decodes=decodes):
                insort(self.prefilling, sequence, key=_by_order)
                _take_chunk(sequence, min(budget, sequence.uncomputed) if not is_alone else sequence.uncomputed, chunks)
                budget -= chunks[-1].tokens
        if spec.is_ahead and self.waiting:
            self._stage(chunks, decodes)
        return chunks

    def compute(self, sequence: SimSequence, tokens: int) -> None:
        """The next `tokens` tokens of a prefilling sequence have their KV."""
        sequence.computed += tokens
        self.computed_tokens += tokens
        if sequence.computed == sequence.tokens:
            self._unqueue(sequence)
        else:
            pairs = chunk_pairs(tokens, context_tokens=sequence.computed - tokens)
            self.queued_tokens -= tokens
            self.queued_pairs -= pairs
            sequence.queued_tokens -= tokens
            sequence.queued_pairs -= pairs
        self.publish(sequence)

    def publish(self, sequence: SimSequence) -> None:
        """Offer the units that have become full to the cache."""
        ids, table = sequence.hash_ids, sequence.table
        full = min(len(ids), sequence.computed // self._spec.unit_tokens)
        for index in range(table.published, full):
            if self._ledger.publish(ids[index]):
                table.held_ids.append(ids[index])
            self._land(sequence, ids[index])
        table.published = max(table.published, full)

    def finish(self, sequence: SimSequence) -> None:
        """Its prompt is computed: it prefills no longer."""
        self.prefilling.remove(sequence)

    def interrupt(self, sequence: SimSequence) -> None:
        """Stop computing its prompt, wherever it is; the caller releases its blocks."""
        for queue in (self.prefilling, self.staged):
            if sequence in queue:
                queue.remove(sequence)
        for hash_id in sequence.hash_ids:
            self._land(sequence, hash_id)
        self._unqueue(sequence)

    def withdraw_waiting(self) -> list[SimSequence]:
        """Everyone who has not started leaves."""
        waiting, self.waiting = self.waiting, []
        for sequence in waiting:
            self._unqueue(sequence)
        return waiting

    def clear(self) -> list[SimSequence]:
        """Everyone leaves, blocks and all."""
        everyone = [*self.prefilling, *self.staged, *self.waiting]
        for sequence in everyone:
            self._unqueue(sequence)
        self.waiting, self.prefilling, self.staged, self.started = [], [], [], []
        self._in_flight.clear()
        return everyone

    # ---- how it is done

    def _line_up(self, sequence: SimSequence) -> None:
        due_s = sequence.deadlines.first_due_s if self._spec.step_order is StepOrder.PACED else 0.0
        sequence.order = (due_s, self._arrivals)
        self._arrivals += 1

    def _queue(self, sequence: SimSequence, cached_tokens: int) -> None:
        sequence.computed = 0
        sequence.table = BlockTable()
        insort(self.waiting, sequence, key=_by_order)
        self._expect(sequence, cached_tokens)

    def _expect(self, sequence: SimSequence, cached_tokens: int) -> None:
        """Count its tokens but these as still to be computed."""
        tokens = max(1, sequence.tokens - cached_tokens)
        sequence.queued_tokens = tokens
        sequence.queued_pairs = chunk_pairs(tokens, context_tokens=sequence.tokens - tokens)
        self.queued_tokens += tokens
        self.queued_pairs += sequence.queued_pairs

    def _unqueue(self, sequence: SimSequence) -> None:
        self.queued_tokens -= sequence.queued_tokens
        self.queued_pairs -= sequence.queued_pairs
        sequence.queued_tokens, sequence.queued_pairs = 0, 0.0

    def _stage(self, chunks: Sequence[Chunk], decodes: int) -> None:
        """Admit for the step after the planned one, as it will find things."""
        done = sum(tokens == sequence.uncomputed for sequence, tokens in chunks)
        left = sum(sequence.uncomputed for sequence in self.prefilling) - sum(chunk.tokens for chunk in chunks)
        budget = self._spec.step_tokens_max - decodes - done - left
        for sequence in self._admit(budget, decodes=decodes):
            self.staged.append(sequence)

    def _admit(self, budget: int, *, decodes: int) -> list[SimSequence]:
        """Waiting sequences that start under this budget of tokens, with their blocks."""
        admitted: list[SimSequence] = []
        passed_over = 0
        position = 0
        is_alone = self._spec.step_order is StepOrder.PREFILL_FIRST
        while budget > 0 and position < len(self.waiting) and passed_over < PASSED_OVER_MAX:
            if decodes + self.running + len(admitted) >= self._spec.batch_sequences_max:
                break
            sequence = self.waiting[position]
            if sequence.hash_ids and self._waits_for_sibling(sequence):
                passed_over += 1
                position += 1
                continue
            usable = self._usable(sequence)
            shared = list(usable[: self._ledger.find(usable)])
            missing = self._blocks_for(sequence.tokens) - len(shared) * self._ledger.unit_blocks
            if not self._ledger.can_take(missing + decodes, beside=shared):
                break  # whose turn it is waits for its blocks: nobody smaller overtakes
            uncached = sequence.tokens - len(shared) * self._spec.unit_tokens
            if is_alone and admitted and uncached > budget:
                break  # prompts are computed whole
            del self.waiting[position]
            self._start(sequence, shared, missing)
            admitted.append(sequence)
            budget -= uncached
        return admitted

    def _start(self, sequence: SimSequence, shared: list[int], missing: int) -> None:
        self._ledger.share(shared)
        self._ledger.take(missing)
        unit_blocks = self._ledger.unit_blocks
        sequence.table = BlockTable(
            blocks=missing + len(shared) * unit_blocks, held_ids=shared, published=len(shared), life=self._ledger.life
        )
        sequence.computed = len(shared) * self._spec.unit_tokens
        if sequence.first_s < 0.0:
            sequence.cached_tokens = sequence.computed
        self._unqueue(sequence)
        self._expect(sequence, sequence.computed)
        for hash_id in sequence.hash_ids[len(shared) :]:
            self._in_flight.setdefault(hash_id, sequence.index)
        self.started.append(sequence)

    def _waits_for_sibling(self, sequence: SimSequence) -> bool:
        usable = self._usable(sequence)
        known = self._ledger.find(usable)
        return known < len(usable) and usable[known] in self._in_flight

    def _usable(self, sequence: SimSequence) -> Sequence[int]:
        """Ids that may be hit: the last token must be computed, or nothing follows from it."""
        if not sequence.hash_ids:
            return ()
        return sequence.hash_ids[: (sequence.tokens - 1) // self._spec.unit_tokens]

    def _land(self, sequence: SimSequence, hash_id: int) -> None:
        if self._in_flight.get(hash_id) == sequence.index:
            del self._in_flight[hash_id]

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._spec.block_tokens)


def _by_order(sequence: SimSequence) -> tuple[float, int]:
    return sequence.order


def _take_chunk(sequence: SimSequence, budget: int, chunks: list[Chunk]) -> int:
    tokens = min(sequence.uncomputed, budget)
    chunks.append(Chunk(sequence, tokens))
    return tokens
