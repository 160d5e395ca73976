"""An engine for simulation: the real scheduler and reservations over the toy model's KV, no torch.

Satisfies `engine/contract.py`. Reads every KV it decodes over and says at once when one is not
what the sequence's tokens make it (`on_wrong_kv`). A step takes no time here: `virtual_steps.py` gives it some.
Next: `toy_model.py`.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from sluice.domain.ids import BlockHash, SequenceId
from sluice.domain.kv import KvGeometry
from sluice.domain.load import WorkerLoad
from sluice.domain.role import Lifecycle
from sluice.domain.sequence import SequenceState
from sluice.engine.block_counts import count_blocks
from sluice.engine.contract import (
    BlockCounts,
    EngineLimits,
    GroupListener,
    KvExtent,
    KvSpan,
    PrefixChange,
    Reservation,
    StepReport,
    TokenOut,
)
from sluice.engine.engine import shape_of
from sluice.engine.handover import Handover
from sluice.engine.request_checks import check_unit_hashes
from sluice.engine.scheduler import Scheduler, Work
from sluice.engine.sequence import LiveSequence, Phase
from sluice.errors import IllegalTransitionError
from sluice.testing.simulation import toy_model

STEP_S: Final = 0.02


class Now:
    """The fence of KV that is written already."""

    def wait(self) -> None:
        """Return at once."""


class ToyEngine:
    """One toy model on one pool. `memory` is its KV region, to be written by others' pushes."""

    def __init__(self, geometry: KvGeometry, limits: EngineLimits, *, on_wrong_kv: Callable[[str], None]) -> None:
        self._geometry = geometry
        self._limits = limits
        self._on_wrong_kv = on_wrong_kv
        self.memory = bytearray(geometry.region_bytes)
        words = np.frombuffer(self.memory, dtype=np.uint32)
        shape = (toy_model.LAYERS, geometry.blocks, 2, geometry.block_tokens)
        # One layer a group: [group][block][layer in group][K/V][token] has no layer axis left.
        assert geometry.group_layers == 1, "the toy model keeps one layer per group"
        self._pool = words.reshape(shape)
        self.scheduler = Scheduler(geometry=geometry, limits=limits)
        self.handover = Handover(scheduler=self.scheduler, geometry=geometry, limits=limits)
        self._marks: dict[LiveSequence, list[int]] = {}
        self._listener: GroupListener | None = None
        self._tokens_total = 0

    @property
    def geometry(self) -> KvGeometry:
        return self._geometry

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    def add(self, state: SequenceState, *, hold: bool) -> None:
        check_unit_hashes(state.unit_hashes, tokens=state.prompt_tokens)
        self.handover.check_absent(state.sequence)
        self.scheduler.add(state, hold=hold)

    def hold(self, sequence: SequenceId) -> None:
        self.scheduler.hold(sequence)

    def kv_of(self, sequence: SequenceId) -> KvExtent:
        live = self.scheduler.find(sequence)
        if live.phase is Phase.WAITING:
            raise IllegalTransitionError(state=live.phase.name, event=f"kv_of sequence {sequence}")
        return KvExtent(computed=live.computed, blocks=tuple(live.blocks))

    def resume(self, sequence: SequenceId) -> None:
        self.scheduler.resume(sequence)

    def release(self, sequence: SequenceId) -> None:
        self.scheduler.release(sequence)

    def abort(self, sequence: SequenceId) -> None:
        self.scheduler.abort(sequence)

    def reserve(self, sequence: SequenceId, *, tokens: int, unit_hashes: Sequence[BlockHash]) -> Reservation:
        check_unit_hashes(unit_hashes, tokens=tokens)
        self.scheduler.check_absent(sequence)
        return self.handover.reserve(sequence, tokens=tokens, unit_hashes=unit_hashes)

    def attach(self, state: SequenceState, *, computed: int) -> None:
        self.handover.attach(state, computed=computed)

    def cancel_reservation(self, sequence: SequenceId) -> None:
        self.handover.cancel(sequence)

    def state_of(self, sequence: SequenceId) -> SequenceState:
        return self.scheduler.find(sequence).state()

    def has_work(self) -> bool:
        return self.scheduler.has_work()

    def listen(self, listener: GroupListener) -> None:
        self._listener = listener

    def take_prefix_change(self) -> PrefixChange:
        return self.scheduler.pool.take_prefix_change()

    def blocks(self) -> BlockCounts:
        return count_blocks(self.scheduler, self.handover)

    def load(self) -> WorkerLoad:
        waiting, running = self.scheduler.waiting, self.scheduler.running
        return WorkerLoad(
            lifecycle=Lifecycle.READY,
            waiting_sequences=len(waiting),
            running_sequences=len(running),
            waiting_prefill_tokens=sum(len(sequence.tokens) - sequence.computed for sequence in waiting),
            context_tokens=sum(sequence.computed for sequence in running),
            free_blocks=self.scheduler.pool.available_blocks,
            cached_blocks=self.scheduler.pool.idle_blocks,
            step_s=STEP_S,
            tokens_total=self._tokens_total,
        )

    def check_integrity(self) -> None:
        """Assert the conservation laws: free + held = all, and every reference has an owner."""
        tables = [sequence.blocks for sequence in self.scheduler.sequences]
        self.scheduler.pool.check_integrity([*tables, *self.handover.block_tables])
        self.scheduler.check_integrity()

    # ---------------------------------------------------------------- one step

    def step(self) -> StepReport:
        plan = self.scheduler.plan()
        shape = shape_of(plan)
        works = (*plan.decodes, *plan.prefills)
        for work in works:
            self._write(work)
        self._announce(plan.prefills)
        for work in works:
            self.scheduler.note_computed(work)
        tokens: list[TokenOut] = []
        held: list[SequenceId] = []
        for sequence in [work.sequence for work in works if work.samples]:
            out = self._choose(sequence)
            tokens.append(out)
            if sequence.hold and out.finish is None:
                held.append(sequence.sequence)
            self.scheduler.accept(sequence, token=out.token, finish=out.finish)
        self._tokens_total += len(tokens)
        self._marks = {live: marks for live, marks in self._marks.items() if live in self.scheduler.sequences}
        return StepReport(
            tokens=tuple(tokens),
            held=tuple(held),
            shape=shape,
            preempted=plan.preempted,
            seconds=STEP_S,
        )

    def _write(self, work: Work) -> None:
        """The KV of the work's tokens, where its block table says."""
        marks = self._marks_of(work.sequence)
        at = np.arange(work.first, work.end)
        blocks = np.array(work.sequence.blocks)[at // self._geometry.block_tokens]
        words = toy_model.kv_of(marks[work.first : work.end])
        self._pool[:, blocks, :, at % self._geometry.block_tokens] = words.transpose(2, 0, 1)

    def _announce(self, prefills: Sequence[Work]) -> None:
        spans = [
            KvSpan(sequence=work.sequence.sequence, first=work.first, end=work.end, blocks=tuple(work.sequence.blocks))
            for work in prefills
            if work.sequence.hold
        ]
        if self._listener is not None and spans:
            for group in range(self._geometry.groups):
                self._listener(group, spans, Now())

    def _choose(self, sequence: LiveSequence) -> TokenOut:
        """Read all the KV there is and choose from what it says, right or wrong."""
        count = len(sequence.tokens)
        table = np.array(sequence.blocks)
        found = self._pool[:, table].transpose(0, 2, 1, 3).reshape(toy_model.LAYERS, 2, -1)[:, :, :count]
        expected = toy_model.kv_of(self._marks_of(sequence)[:count])
        if not np.array_equal(found, expected):
            wrong = np.flatnonzero((found != expected).any(axis=(0, 1)))
            blocks = sorted({sequence.blocks[int(token) // self._geometry.block_tokens] for token in wrong})
            what = f"tokens {wrong[0]}..{wrong[-1]} of {count}, blocks {blocks} of {sequence.blocks}"
            self._on_wrong_kv(f"sequence {sequence.sequence} reads KV that is not its own: {what}")
        sampling = sequence.sampling
        token = toy_model.next_token(found, seed=sampling.seed, ends=not sampling.ignore_eos)
        return TokenOut(
            sequence=sequence.sequence,
            epoch=sequence.accepted.epoch,
            index=sequence.output_tokens,
            token=token,
            finish=toy_model.end_of(sampling, token=token, output_tokens=sequence.output_tokens + 1),
        )

    def _marks_of(self, sequence: LiveSequence) -> list[int]:
        marks = self._marks.setdefault(sequence, [])
        toy_model.extend_marks(marks, sequence.tokens)
        return marks
