"""One simulated instance: which sequences run in a step, on how many blocks, and when steps end.

Decides as `engine/scheduler.py` does (decodes first, then chunks of the prompts due first, as many tokens as let
the decodes keep their pace; the last to be due is preempted when blocks run out), and a test holds the two
together step by step. While the batch stays the same it jumps over many decode steps at once. Never reads a
clock and never knows other instances; `fleet_run.py` owns it:

    enqueue() | attach() -> plan(now_s) -> [until ends_s; cut(now_s) makes it earlier] -> finish_steps() -> plan() ...

Next: `prefill_queue.py` for who is admitted, `batch.py` for the decoding sequences, `step_log.py`.
"""

import math
from collections import deque
from typing import Final, NamedTuple

from sluice.capacity.step_budget import tokens_within
from sluice.capacity.step_model import StepShape, chunk_pairs
from sluice.simulator.batch import DecodeBatch
from sluice.simulator.block_ledger import BlockLedger
from sluice.simulator.gap_histogram import GapHistogram
from sluice.simulator.image_queue import ImageQueue, SimImage
from sluice.simulator.instance_spec import InstanceSpec, StepOrder
from sluice.simulator.prefill_queue import Chunk, PrefillQueue
from sluice.simulator.sequence import BlockTable, SimSequence
from sluice.simulator.step_log import StepLog, row_end_s

NEVER: Final = math.inf


class Ended(NamedTuple):
    """What the steps that just ended brought."""

    first_tokens: list[SimSequence]  # whose first token came, held ones included
    held: list[SimSequence]  # prefilled; another instance decodes them
    finished: list[SimSequence]
    encoded: list[SimImage]


class Instance:
    """The sequences, blocks and steps of one replica."""

    def __init__(self, spec: InstanceSpec, *, slot: int, gaps: GapHistogram) -> None:
        self.spec = spec
        self.slot = slot
        self.role = spec.role
        self.ledger = BlockLedger(spec.blocks, unit_blocks=spec.unit_tokens // spec.block_tokens)
        self.batch = DecodeBatch(spec.block_tokens)
        self.prefills = PrefillQueue(spec, self.ledger)
        self.parked: deque[SimSequence] = deque()  # attached, blocks and all; the batch is full
        self.images = ImageQueue(spec.encode, tokens_max=spec.encode_tokens_max)
        self.incoming = 0  # sequences that are on their way here
        self.is_running = False
        self.ends_s = NEVER  # of the planned steps
        self.busy_s = 0.0
        self.paid_from_s = 0.0
        self.paid_until_s = NEVER  # NEVER: to the end of the run
        self.decoded_tokens = 0
        self.preemptions = 0
        self.step = 0  # decode steps done
        self._log = StepLog()
        self._gaps = gaps
        self._chunks: list[Chunk] = []
        self._decodes = False  # whether the planned steps decode
        self._steps = 0
        self._grown = 0  # of those, the steps whose blocks are taken
        self._starts_s = 0.0
        self._step_s = 0.0
        self._growth_s = 0.0
        self._last_decode_s = 0.0  # when the last decode step ended

    @property
    def running(self) -> int:
        """Sequences in the batch, prefilling ones included."""
        return len(self.batch) + self.prefills.running + len(self.parked)

    def paid_s(self, ended_s: float) -> float:
        """For how much of a run that ends at `ended_s` it is paid."""
        return max(0.0, min(self.paid_until_s, ended_s) - self.paid_from_s)

    @property
    def step_now_s(self) -> float:
        """How long the planned steps take, the first of them; 0 where nothing runs."""
        return self._step_s if self.is_running else 0.0

    @property
    def is_empty(self) -> bool:
        """Nothing runs, waits or is on its way."""
        return self.running == 0 and not self.prefills.waiting and self.incoming == 0 and self.images.is_empty

    # ---- what comes in, what leaves

    def enqueue(self, sequence: SimSequence, *, cached_tokens: int = 0) -> None:
        """Prefill this sequence when its turn comes. `cached_tokens` is what the owner expects to be hit."""
        self.prefills.enqueue(sequence, cached_tokens=cached_tokens)

    def reserve(self, sequence: SimSequence, *, tokens: int, now_s: float) -> BlockTable | None:
        """Blocks for the KV of `tokens` tokens that come from elsewhere; None without room.

        Where the planned steps would lack these blocks, fewer are run: ends_s may come earlier.
        """
        if not self.is_running:
            return self.prefills.reserve(sequence, tokens=tokens, headroom=len(self.batch))
        begun = self._steps_begun(now_s)
        self._grow(begun)
        table = self.prefills.reserve(sequence, tokens=tokens, headroom=len(self.batch))
        if table is not None and self._blocks_to_come() > self.ledger.available:
            self._shorten(begun)
        return table

    def attach(self, sequence: SimSequence, table: BlockTable) -> None:
        """All KV of the sequence is in `table`, which reserve() gave: decode it from the next step on."""
        sequence.table = table
        sequence.is_held = False
        self.prefills.adopt(sequence)
        self.parked.append(sequence)

    def detach(self, sequence: SimSequence) -> None:
        """Between steps: it decodes here no longer. Its blocks stay until release()."""
        if sequence in self.batch:
            self._leave(sequence)
        else:
            self.parked.remove(sequence)

    def release(self, table: BlockTable) -> None:
        """Nobody needs these blocks any more; full units stay cached. Void after a failure."""
        if table.life == self.ledger.life:
            self.ledger.drop(table.held_ids, private=table.private_blocks(self.ledger.unit_blocks))

    # ---- steps

    def plan(self, now_s: float) -> int:
        """Choose the next steps and take the blocks for them. Sets is_running and ends_s; returns the preemptions."""
        assert not self.is_running
        while self.parked and len(self.batch) + self.prefills.running < self.spec.batch_sequences_max:
            self.batch.join(self.parked.popleft(), step=self.step, now_s=now_s)
        preempted = self._make_room() if len(self.batch) else 0
        may_admit = preempted == 0 or len(self.batch) == 0
        self._grown = 0
        is_alone = self.spec.step_order is StepOrder.PREFILL_FIRST
        self._decodes = len(self.batch) > 0 and not is_alone
        self._grow(1)  # before anybody is admitted: running sequences come first
        self._chunks = self.prefills.next_chunks(
            decodes=len(self.batch), budget=self._prompt_tokens(now_s), may_admit=may_admit
        )
        if is_alone:
            self._decodes = len(self.batch) > 0 and not self._chunks
            self._grow(1)
        encode_s = self.images.next_batch_s()
        if not self._chunks and not self._decodes and not encode_s:
            self.ends_s = NEVER
            return preempted
        self._steps = 1
        # With any of these the next step may be another.
        if not self._chunks and not self.prefills.staged and may_admit and not encode_s:
            self._steps = self._jump()
        self._time_steps()
        self._step_s += encode_s  # a vision tower and a language model on one GPU take turns
        self._starts_s = now_s
        self.ends_s = row_end_s(now_s, self._steps, self._step_s, self._growth_s)
        self.is_running = True
        return preempted

    def cut(self, now_s: float) -> bool:
        """Somebody came: end the planned steps with the one that runs now. Whether ends_s has changed."""
        if not self.is_running or self._steps == 1 or self.running >= self.spec.batch_sequences_max:
            return False
        steps = self._steps_begun(now_s)
        if steps >= self._steps:
            return False
        self._shorten(max(1, steps))
        return True

    def finish_steps(self) -> Ended:
        """The planned steps have ended, at ends_s."""
        assert self.is_running
        now_s = self.ends_s
        self.is_running = False
        self.busy_s += now_s - self._starts_s
        finished = self._finish_decodes(now_s) if self._decodes else []
        ended = Ended([], [], finished, self.images.finish_batch())
        for sequence, tokens in self._chunks:
            self.prefills.compute(sequence, tokens)
            if sequence.computed == sequence.tokens:
                self._finish_prefill(sequence, now_s, ended)
        self._chunks = []
        return ended

    def fail(self, now_s: float) -> list[SimSequence]:
        """The instance is lost, and every block with it. Returns who was here, brought up to date."""
        if self.is_running:
            begun = self._steps_begun(now_s)
            if self._decodes and begun > 1:
                self._shorten(begun - 1)
                self._finish_decodes(self.ends_s)
            self.is_running = False
        lost = [*self.batch.members, *self.prefills.clear(), *self.parked]
        for sequence in tuple(self.batch.members):
            self._leave(sequence)
        self.parked.clear()
        self.ledger.clear()
        self.ends_s = NEVER
        return lost

    # ---- how it is done

    def _prompt_tokens(self, now_s: float) -> int:
        """How much of prompts the next step may compute beside the decodes."""
        spec, batch = self.spec, self.batch
        if spec.step_order is StepOrder.PREFILL_FIRST:
            return spec.step_tokens_max
        most = spec.step_tokens_max - len(batch)
        if spec.step_order is StepOrder.CHUNKED or not len(batch):
            return most
        return tokens_within(
            spec.curve,
            batch.allowed_s(step=self.step, now_s=now_s),
            decodes=len(batch),
            context_tokens=batch.context_tokens,
            prefix_tokens=self.prefills.prefix_tokens,
            tokens_max=most,
        )

    def _make_room(self) -> int:
        """Preempt the last to be due until every decode can grow; returns how many."""
        preempted = 0
        while len(self.batch) and self.batch.blocks_needed(step=self.step, steps=1) > self.ledger.available:
            victim = self._last_preemptible()
            if victim in self.batch:
                self._leave(victim)
            else:
                self.prefills.interrupt(victim)
            self.release(victim.table)
            victim.preempted += 1
            self.prefills.requeue(victim)
            preempted += 1
        self.preemptions += preempted
        return preempted

    def _last_preemptible(self) -> SimSequence:
        candidates = [*self.batch.members, *(s for s in self.prefills.prefilling if not s.is_held)]
        return max(candidates, key=_by_order)

    def _jump(self) -> int:
        """How many decode steps pass before anything but the context changes."""
        steps = min(self.batch.steps_to_finish(step=self.step), self.spec.jump_steps_max)
        blocks = self.ledger.available + self.batch.blocks_needed(step=self.step, steps=1)  # the first's are taken
        return max(1, self.batch.steps_within(blocks, step=self.step, steps=steps))

    def _time_steps(self) -> None:
        """The first step's time and how much each next takes longer, from the step model."""
        decodes = len(self.batch) if self._decodes else 0
        context = self.batch.context_tokens if self._decodes else 0
        if self._chunks:
            pairs = sum(chunk_pairs(tokens, context_tokens=sequence.computed) for sequence, tokens in self._chunks)
            tokens = sum(chunk.tokens for chunk in self._chunks)
            shape = StepShape(tokens, pairs, len(self._chunks), decodes, context)
            self._step_s, self._growth_s = self.spec.model.step_s(shape), 0.0
            return
        self._step_s = self.spec.model.step_s(StepShape(decodes=decodes, context_tokens=context))
        self._growth_s = 0.0
        if self._steps > 1:
            last_context = context + decodes * (self._steps - 1)
            last_s = self.spec.model.step_s(StepShape(decodes=decodes, context_tokens=last_context))
            if last_s < self._step_s:  # a bumpy table: its mean, so that gaps never shrink within a row
                self._step_s = (self._step_s + last_s) / 2
            else:
                self._growth_s = (last_s - self._step_s) / (self._steps - 1)

    def _steps_begun(self, now_s: float) -> int:
        """How many of the planned steps have begun before `now_s`: who comes right at a step's start is in it."""
        passed_s = now_s - self._starts_s
        steps = int(passed_s / self._step_s) + 1 if self._step_s > 0.0 else self._steps
        if self._growth_s > 0.0:
            linear = self._step_s - self._growth_s / 2
            root = (math.sqrt(linear * linear + 2 * self._growth_s * max(0.0, passed_s)) - linear) / self._growth_s
            steps = int(root) + 1
        steps = max(1, min(steps, self._steps))
        while steps > 1 and row_end_s(self._starts_s, steps - 1, self._step_s, self._growth_s) >= now_s:
            steps -= 1
        while steps < self._steps and row_end_s(self._starts_s, steps, self._step_s, self._growth_s) < now_s:
            steps += 1
        return steps

    def _shorten(self, steps: int) -> None:
        self._steps = steps
        self.ends_s = row_end_s(self._starts_s, steps, self._step_s, self._growth_s)

    def _grow(self, steps: int) -> None:
        """Take the blocks that the first `steps` planned steps need and have not taken yet."""
        if self._decodes and steps > self._grown:
            self.ledger.take(self.batch.blocks_needed(step=self.step + self._grown, steps=steps - self._grown))
            self._grown = steps

    def _blocks_to_come(self) -> int:
        """What the rest of the planned steps will take."""
        left = self._steps - self._grown
        return self.batch.blocks_needed(step=self.step + self._grown, steps=left) if self._decodes else 0

    def _finish_decodes(self, now_s: float) -> list[SimSequence]:
        """Log the decode steps that have run; returns the sequences they finished, released."""
        self._grow(self._steps)
        self._count_gaps()
        if self._log.is_full:
            self._log.trim(min((s.joined_step for s in self.batch.members), default=self.step))
        self._log.append(
            first=self.step, steps=self._steps, start_s=self._starts_s, step_s=self._step_s, growth_s=self._growth_s
        )
        self.step += self._steps
        self.decoded_tokens += self._steps * len(self.batch)
        self.batch.advance(self._steps)
        self._last_decode_s = now_s
        finished = self.batch.pop_finished(step=self.step)
        for sequence, joined in finished:
            self._judge(sequence, joined)
            self.release(sequence.table)
        return [sequence for sequence, _ in finished]

    def _count_gaps(self) -> None:
        """All gaps of the steps that have run, into the histogram."""
        first_token_s = self._starts_s + self._step_s
        fresh = self.batch.fresh
        for sequence in fresh:
            self._gaps.add(first_token_s - sequence.last_s)
        decodes = len(self.batch)
        self._gaps.add(first_token_s - self._last_decode_s, decodes - len(fresh))
        self._gaps.add_growing(self._step_s + self._growth_s, self._growth_s, steps=self._steps - 1, count=decodes)

    def _finish_prefill(self, sequence: SimSequence, now_s: float, ended: Ended) -> None:
        """Its last prompt token is computed: the next token comes with it."""
        if sequence.first_s < 0.0:
            sequence.first_s = now_s
            ended.first_tokens.append(sequence)
            sequence.late_tokens += now_s > sequence.deadlines.first_due_s
        else:  # it was recomputed
            gap_s = now_s - sequence.last_s
            self._gaps.add(gap_s)
            sequence.note_token(gap_s, now_s)
        sequence.last_s = now_s
        sequence.produced += 1
        sequence.tokens += 1
        self.prefills.finish(sequence)
        if sequence.produced >= sequence.output_tokens:
            self.release(sequence.table)
            ended.finished.append(sequence)
        elif sequence.is_held:
            ended.held.append(sequence)
        else:
            self.batch.join(sequence, step=self.step, now_s=now_s)

    def _leave(self, sequence: SimSequence) -> None:
        joined = sequence.joined_step
        self.batch.leave(sequence, step=self.step)
        self._judge(sequence, joined)

    def _judge(self, sequence: SimSequence, joined: int) -> None:
        """How the tokens came that it decoded from step `joined` until now; and how far its blocks have grown."""
        steps = self.step - joined
        if steps:
            spacing = self._log.spacing(
                joined,
                self.step,
                previous_s=sequence.last_s,
                token=sequence.produced - steps,
                deadlines=sequence.deadlines,
            )
            sequence.worst_gap_s = max(sequence.worst_gap_s, spacing.worst_gap_s)
            sequence.long_gaps += spacing.long_gaps
            sequence.late_tokens += spacing.late_tokens
            sequence.last_s = spacing.last_s
        blocks = -(-sequence.computed // self.spec.block_tokens)
        sequence.table.blocks = max(sequence.table.blocks, blocks)


def _by_order(sequence: SimSequence) -> tuple[float, int]:
    return sequence.order
