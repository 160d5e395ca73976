"""Every block is accounted for after any history of requests, handovers, aborts and steps."""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sluice.domain.ids import SequenceId
from sluice.domain.kv import KvGeometry
from sluice.domain.role import FinishReason
from sluice.engine.block_counts import count_blocks
from sluice.engine.contract import EngineLimits
from sluice.engine.handover import Handover
from sluice.engine.scheduler import Scheduler
from sluice.engine.sequence import Phase
from sluice.errors import InvalidRequestError, OverloadedError, ReservationRefusedError
from sluice.testing.sequence_states import sequence_state

BLOCKS = 12
LIMITS = EngineLimits(batch_sequences_max=4, step_tokens_max=24, sequence_tokens_max=150, waiting_sequences_max=5)
GEOMETRY = KvGeometry(
    layers=1, group_layers=1, heads=1, head_dim=1, block_tokens=16, blocks=BLOCKS, dtype="float32", dtype_bytes=4
)

lengths = st.integers(1, 149)
variants = st.integers(0, 2)  # few different texts, so that prefixes are shared
picks = st.integers(0, 30)


class BlockAccounting(RuleBasedStateMachine):
    """Random histories of one scheduler and its reservations."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(geometry=GEOMETRY, limits=LIMITS)
        self.handover = Handover(scheduler=self.scheduler, geometry=GEOMETRY, limits=LIMITS)
        self.reserved: dict[int, int] = {}
        self.known: set[bytes] = set()
        self.count = 0

    def text(self, length: int, variant: int) -> list[int]:
        rng = random.Random(variant)
        return [rng.randrange(4) for _ in range(length)]

    def pick(self, phases: set[Phase], at: int) -> SequenceId | None:
        found = [sequence.sequence for sequence in self.scheduler.sequences if sequence.phase in phases]
        return found[at % len(found)] if found else None

    @rule(length=lengths, variant=variants, hold=st.booleans(), outputs=st.integers(0, 3))
    def add(self, length: int, variant: int, hold: bool, outputs: int) -> None:
        self.count += 1
        state = sequence_state(self.count, self.text(length, variant), outputs=[1] * outputs, max_tokens=40)
        try:
            self.scheduler.add(state, hold=hold)
        except (OverloadedError, InvalidRequestError):
            return

    @rule(length=lengths, variant=variants)
    def reserve(self, length: int, variant: int) -> None:
        self.count += 1
        state = sequence_state(self.count, self.text(length, variant))
        try:
            self.handover.reserve(state.sequence, tokens=length, unit_hashes=state.unit_hashes)
        except ReservationRefusedError:
            return
        self.reserved[self.count] = variant

    @precondition(lambda self: self.reserved)
    @rule(at=picks, cancels=st.booleans())
    def end_reservation(self, at: int, cancels: bool) -> None:
        sequence = sorted(self.reserved)[at % len(self.reserved)]
        variant = self.reserved.pop(sequence)
        if cancels:
            self.handover.cancel(SequenceId(sequence))
            return
        length = self.handover._reserved[SequenceId(sequence)].tokens
        state = sequence_state(sequence, self.text(length, variant), outputs=[2], max_tokens=40)
        try:
            self.handover.attach(state, computed=length)
        except (InvalidRequestError, ReservationRefusedError):
            self.handover.cancel(SequenceId(sequence))

    @rule(at=picks)
    def abort(self, at: int) -> None:
        sequence = self.pick(set(Phase), at)
        if sequence is not None:
            self.scheduler.abort(sequence)

    @rule(at=picks, resumes=st.booleans())
    def end_hold(self, at: int, resumes: bool) -> None:
        sequence = self.pick({Phase.HELD}, at)
        if sequence is not None:
            (self.scheduler.resume if resumes else self.scheduler.release)(sequence)

    @rule(at=picks)
    def hold(self, at: int) -> None:
        sequence = self.pick({Phase.PREFILL, Phase.DECODE}, at)
        if sequence is not None:
            self.scheduler.hold(sequence)

    @rule(steps=st.integers(1, 6), token=st.integers(0, 3), ends=st.integers(0, 20), fails=st.integers(0, 40))
    def step(self, steps: int, token: int, ends: int, fails: int) -> None:
        for _ in range(steps):
            untouchable = self.tables_of({Phase.HELD})
            plan = self.scheduler.plan()
            works = (*plan.decodes, *plan.prefills)
            assert sum(work.tokens for work in works) <= LIMITS.step_tokens_max
            assert len(works) <= LIMITS.batch_sequences_max
            for work in works:
                assert work.tokens > 0
                assert len(work.sequence.blocks) * 16 >= work.end
            sampled = [work.sequence for work in works if work.samples]
            for work in works:
                self.scheduler.note_computed(work)
            for at, sequence in enumerate(sampled):
                if fails == at:
                    self.scheduler.fail(sequence)
                    continue
                is_last = ends == at or sequence.output_tokens + 1 >= 40 or len(sequence.tokens) + 1 >= 150
                self.scheduler.accept(sequence, token=token, finish=FinishReason.LENGTH if is_last else None)
            assert untouchable.items() <= self.tables_of({Phase.HELD}).items(), "a held sequence lost its blocks"

    def tables_of(self, phases: set[Phase]) -> dict[int, tuple[int, ...]]:
        return {
            sequence.sequence: tuple(sequence.blocks)
            for sequence in self.scheduler.sequences
            if sequence.phase in phases
        }

    @invariant()
    def every_block_is_somewhere(self) -> None:
        counts = count_blocks(self.scheduler, self.handover)
        parts = (counts.free, counts.cached, counts.active, counts.held, counts.reserved)
        assert min(parts) >= 0
        assert sum(parts) == counts.total == BLOCKS

    @invariant()
    def references_match_block_tables(self) -> None:
        tables = [sequence.blocks for sequence in self.scheduler.sequences]
        self.scheduler.pool.check_integrity([*tables, *self.handover.block_tables])
        self.scheduler.check_integrity()

    @invariant()
    def reported_prefix_changes_add_up_to_what_is_cached(self) -> None:
        change = self.scheduler.pool.take_prefix_change()
        assert not self.known & set(change.stored), "stored twice"
        assert set(change.removed) <= self.known, "removed without having been stored"
        self.known = (self.known | set(change.stored)) - set(change.removed)
        assert self.known == set(self.scheduler.pool._cache._block_of)

    def teardown(self) -> None:
        """Whatever happened, everything comes to an end and every block is free or cached."""
        for sequence in list(self.reserved):
            self.handover.cancel(SequenceId(sequence))
        for sequence in [each.sequence for each in self.scheduler.sequences if each.phase is Phase.HELD]:
            self.scheduler.release(sequence)
        self.reserved.clear()
        for _ in range(600):
            if not self.scheduler.has_work():
                break
            self.step(steps=1, token=1, ends=50, fails=50)
            for sequence in [each.sequence for each in self.scheduler.sequences if each.phase is Phase.HELD]:
                self.scheduler.release(sequence)
        assert not self.scheduler.has_work(), "some sequence never ends"
        assert self.scheduler.pool.available_blocks == BLOCKS


BlockAccounting.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBlockAccounting = BlockAccounting.TestCase
