"""The engine: a batch and its KV pool behind the contract in `contract.py`, over whatever runs its steps.

Owns the order of a step and nothing else: schedule, run, note what happened. Decisions are in
`scheduler.py` and `handover.py`; what computes and chooses tokens is a `runner.py`. No torch here.
One thread calls it; it never blocks on I/O.
"""

from collections.abc import Sequence
from dataclasses import replace

from sluice.capacity.step_curve import StepCurve
from sluice.clock import Clock, SystemClock
from sluice.domain.ids import BlockHash, SequenceId
from sluice.domain.kv import KvGeometry
from sluice.domain.load import WorkerLoad
from sluice.domain.role import Lifecycle
from sluice.domain.sequence import SequenceState
from sluice.engine.block_counts import count_blocks
from sluice.engine.contract import (
    BlockCounts,
    EmbeddingRows,
    EngineLimits,
    GroupListener,
    KvExtent,
    ModelFacts,
    PrefixChange,
    Reservation,
    StepReport,
    TokenOut,
)
from sluice.engine.handover import Handover
from sluice.engine.learned_curve import LearnedCurve
from sluice.engine.request_checks import check_embeddings, check_reads_images, check_tokens, check_unit_hashes
from sluice.engine.runner import ModelRunner, Sampled
from sluice.engine.scheduler import Scheduler
from sluice.engine.sequence import Phase
from sluice.engine.step_plan import StepPlan
from sluice.engine.stopping import finish_reason
from sluice.errors import ConfigError, IllegalTransitionError, InvalidRequestError

STEP_SMOOTHING = 0.1  # weight of the newest step in WorkerLoad.step_s


class PagedEngine:
    """One batch on one paged KV pool. Satisfies `contract.Engine`."""

    def __init__(
        self,
        runner: ModelRunner,
        *,
        geometry: KvGeometry,
        limits: EngineLimits,
        clock: Clock | None = None,
        curve: StepCurve | None = None,
    ) -> None:
        """`limits.sequence_tokens_max` is lowered to what the model and the pool can hold; `curve` says how long steps
        take, where that is known before any has run.

        Raises ConfigError for limits that contradict each other.
        """
        if limits.step_tokens_max <= limits.batch_sequences_max:
            raise ConfigError("step_tokens_max: must be above batch_sequences_max, or decodes starve prefills")
        facts = runner.facts
        longest = min(limits.sequence_tokens_max, facts.sequence_tokens_max, geometry.blocks * geometry.block_tokens)
        self._runner = runner
        self._geometry = geometry
        self._limits = replace(limits, sequence_tokens_max=longest)
        self._clock = clock or SystemClock()
        self.scheduler = Scheduler(geometry=geometry, limits=self._limits)
        self.handover = Handover(scheduler=self.scheduler, geometry=geometry, limits=self._limits)
        self._listener: GroupListener | None = None
        self._learned = LearnedCurve(curve)
        self._step_s = 0.0
        self._tokens_total = 0

    @property
    def geometry(self) -> KvGeometry:
        return self._geometry

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def facts(self) -> ModelFacts:
        """What the model is."""
        return self._runner.facts

    @property
    def kv_address(self) -> int:
        """Where the KV region starts, on `kv_device`; it is `geometry.region_bytes` long."""
        return self._runner.kv_address

    @property
    def kv_device(self) -> str:
        """ "cpu" or "cuda:0"."""
        return self._runner.kv_device

    def add(self, state: SequenceState, *, hold: bool) -> None:
        self._check(state)
        check_reads_images(state, token_bytes=self._runner.facts.image_token_bytes)
        self.handover.check_absent(state.sequence)
        self.scheduler.add(state, hold=hold, now_s=self._clock.now_s())
        if not hold:
            self._runner.expect(len(state.tokens))

    def provide(self, sequence: SequenceId, digest: bytes, embeddings: EmbeddingRows) -> None:
        live = self.scheduler.waiting_for(sequence, digest)
        if live is None:
            embeddings.close()
            return
        try:
            check_embeddings(live.accepted, digest, embeddings)
        except InvalidRequestError:
            embeddings.close()
            raise
        live.embeddings[digest] = embeddings

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
        reservation = self.handover.reserve(sequence, tokens=tokens, unit_hashes=unit_hashes)
        return replace(reservation, is_ready=self._runner.expect(tokens))

    def attach(self, state: SequenceState, *, computed: int) -> None:
        self._check(state)
        if any(span.end > computed for span in state.images):
            problem = f"are needed from token {computed} on"
            raise InvalidRequestError(field="images", problem=problem, remedy="move it when its prompt is computed")
        self.handover.attach(state, computed=computed, now_s=self._clock.now_s())

    def cancel_reservation(self, sequence: SequenceId) -> None:
        self.handover.cancel(sequence)

    def state_of(self, sequence: SequenceId) -> SequenceState:
        return self.scheduler.find(sequence).state(now_s=self._clock.now_s())

    def has_work(self) -> bool:
        return self.scheduler.has_work()

    def listen(self, listener: GroupListener) -> None:
        self._listener = listener

    def take_prefix_change(self) -> PrefixChange:
        return self.scheduler.pool.take_prefix_change()

    def step(self) -> StepReport:
        started_s = self._clock.now_s()
        plan = self.scheduler.plan(self._learned.curve, now_s=started_s)
        lost = tuple((sequence, "its blocks were needed, and its images are not here") for sequence in plan.lost)
        if not plan.decodes and not plan.prefills:
            return StepReport(preempted=plan.preempted, failed=lost)
        shape = plan.shape
        sampled = self._runner.run(plan, self._listener)
        for work in (*plan.decodes, *plan.prefills):
            self.scheduler.note_computed(work)
        report = self._note(plan, sampled)
        seconds = self._clock.now_s() - started_s
        self._learned.note(shape, seconds)
        if not self.scheduler.has_work():
            self._runner.rest()
        self._step_s += (seconds - self._step_s) * (STEP_SMOOTHING if self._step_s else 1.0)
        self._tokens_total += len(report.tokens)
        return replace(report, failed=report.failed + lost, shape=shape, seconds=seconds)

    def blocks(self) -> BlockCounts:
        return count_blocks(self.scheduler, self.handover)

    def load(self) -> WorkerLoad:
        """The engine's part of a heartbeat. `lifecycle` says READY and `leases` none: the worker knows better."""
        waiting, running = self.scheduler.waiting, self.scheduler.running
        reserved = {block for table in self.handover.block_tables for block in table}
        unfinished = [*waiting, *(sequence for sequence in running if sequence.phase is Phase.PREFILL)]
        return WorkerLoad(
            lifecycle=Lifecycle.READY,
            waiting_sequences=len(waiting),
            running_sequences=len(running),
            waiting_prefill_tokens=sum(len(sequence.tokens) - sequence.computed for sequence in unfinished),
            context_tokens=sum(sequence.computed for sequence in running),
            free_blocks=self.scheduler.pool.available_blocks,
            cached_blocks=self.scheduler.pool.idle_blocks,
            reserved_blocks=len(reserved),
            step_s=self._step_s,
            tokens_total=self._tokens_total,
        )

    def check_integrity(self) -> None:
        """Assert the conservation laws: call when idle, or after every step of a test."""
        tables = [sequence.blocks for sequence in self.scheduler.sequences]
        self.scheduler.pool.check_integrity([*tables, *self.handover.block_tables])
        self.scheduler.check_integrity()

    def _check(self, state: SequenceState) -> None:
        check_tokens(state, vocabulary=self._runner.facts.vocabulary)
        check_unit_hashes(state.unit_hashes, tokens=state.prompt_tokens)

    def _note(self, plan: StepPlan, sampled: Sequence[Sampled]) -> StepReport:
        """Tell the scheduler what was chosen, and the caller what happened."""
        tokens: list[TokenOut] = []
        held: list[SequenceId] = []
        failed: list[tuple[SequenceId, str]] = []
        for sequence, choice in ((each.sequence, each.choice) for each in sampled):
            if not choice.is_valid:
                self._runner.scrub(self.scheduler.fail(sequence))
                failed.append((sequence.sequence, choice.problem))
                continue
            finish = finish_reason(
                sequence.sampling,
                token=choice.token,
                output_tokens=sequence.output_tokens + 1,
                tokens_left=self._limits.sequence_tokens_max - len(sequence.tokens) - 1,
                eos_token_ids=self._runner.facts.eos_token_ids,
            )
            tokens.append(
                TokenOut(
                    sequence=sequence.sequence,
                    epoch=sequence.accepted.epoch,
                    index=sequence.output_tokens,
                    token=choice.token,
                    finish=finish,
                    logprobs=choice.logprobs,
                )
            )
            if sequence.hold and finish is None:
                held.append(sequence.sequence)
            self.scheduler.accept(sequence, token=choice.token, finish=finish)
        return StepReport(tokens=tuple(tokens), held=tuple(held), failed=tuple(failed), preempted=plan.preempted)
