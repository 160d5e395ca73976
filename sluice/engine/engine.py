"""The engine: one model, its KV pool and its batch behind the contract in `contract.py`.

Owns the order of a step and nothing else: schedule, build inputs, run the model, choose tokens,
note what happened. Decisions are in `scheduler.py` and `handover.py`, tensors in `kv_cache.py`,
`input_builder.py`, `attention.py` and `sampler.py`. One thread calls it; it never blocks on I/O.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from sluice.clock import Clock, SystemClock
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
    ModelFacts,
    PrefixChange,
    Reservation,
    StepReport,
    TokenOut,
)
from sluice.engine.fence import fence_on
from sluice.engine.handover import Handover
from sluice.engine.input_builder import InputBuilder
from sluice.engine.kv_cache import KvCache
from sluice.engine.model_loader import LoadedModel
from sluice.engine.request_checks import check_tokens, check_unit_hashes
from sluice.engine.sampler import Choice, choose
from sluice.engine.scheduler import Scheduler, StepPlan
from sluice.engine.sequence import LiveSequence, Phase
from sluice.engine.step_inputs import StepContext, StepInputs
from sluice.engine.stopping import finish_reason
from sluice.errors import ConfigError, IllegalTransitionError

STEP_SMOOTHING = 0.1  # weight of the newest step in WorkerLoad.step_s


class PagedEngine:
    """Runs one model on one paged KV pool. Satisfies `contract.Engine`."""

    def __init__(
        self, *, model: LoadedModel, cache: KvCache, geometry: KvGeometry, limits: EngineLimits, clock: Clock
    ) -> None:
        """Use build()."""
        self._model = model
        self._cache = cache
        self._geometry = geometry
        self._limits = limits
        self._clock = clock
        self._scheduler = Scheduler(geometry=geometry, limits=limits)
        self._handover = Handover(scheduler=self._scheduler, geometry=geometry, limits=limits)
        windows = tuple(dict.fromkeys(model.windows))
        self._inputs = InputBuilder(cache=cache, dtype=model.module.dtype, windows=windows)
        self._listener: GroupListener | None = None
        self._step_s = 0.0
        self._tokens_total = 0

    @classmethod
    def build(
        cls,
        model: LoadedModel,
        *,
        geometry: KvGeometry,
        limits: EngineLimits,
        kv_buffer: memoryview | None = None,
        clock: Clock | None = None,
    ) -> "PagedEngine":
        """An engine over `kv_buffer`, writable main memory of exactly `geometry.region_bytes`, or over its own memory.

        `limits.sequence_tokens_max` is lowered to what the model and the pool can hold. Raises
        ConfigError for limits that contradict each other or a geometry of another model.
        """
        facts = model.facts
        if (geometry.layers, geometry.heads, geometry.head_dim) != (facts.layers, facts.kv_heads, facts.head_dim):
            raise ConfigError("kv geometry: is of another model; make it with geometry_for()")
        if geometry.dtype != facts.dtype:
            raise ConfigError(f"kv geometry: dtype {geometry.dtype} differs from the model's {facts.dtype}")
        if limits.step_tokens_max <= limits.batch_sequences_max:
            raise ConfigError("step_tokens_max: must be above batch_sequences_max, or decodes starve prefills")
        longest = min(limits.sequence_tokens_max, facts.sequence_tokens_max, geometry.blocks * geometry.block_tokens)
        cache = KvCache(geometry=geometry, buffer=kv_buffer, device=model.module.device)
        return cls(
            model=model,
            cache=cache,
            geometry=geometry,
            limits=replace(limits, sequence_tokens_max=longest),
            clock=clock or SystemClock(),
        )

    @property
    def geometry(self) -> KvGeometry:
        return self._geometry

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def facts(self) -> ModelFacts:
        """What the model is."""
        return self._model.facts

    @property
    def kv_address(self) -> int:
        """Where the KV region starts, on `kv_device`; it is `geometry.region_bytes` long."""
        return self._cache.address

    @property
    def kv_device(self) -> str:
        """ "cpu" or "cuda:0"."""
        return str(self._cache.device)

    def add(self, state: SequenceState, *, hold: bool) -> None:
        self._check(state)
        self._handover.check_absent(state.sequence)
        self._scheduler.add(state, hold=hold)

    def hold(self, sequence: SequenceId) -> None:
        self._scheduler.hold(sequence)

    def kv_of(self, sequence: SequenceId) -> KvExtent:
        live = self._scheduler.find(sequence)
        if live.phase is Phase.WAITING:
            raise IllegalTransitionError(state=live.phase.name, event=f"kv_of sequence {sequence}")
        return KvExtent(computed=live.computed, blocks=tuple(live.blocks))

    def resume(self, sequence: SequenceId) -> None:
        self._scheduler.resume(sequence)

    def release(self, sequence: SequenceId) -> None:
        self._scheduler.release(sequence)

    def abort(self, sequence: SequenceId) -> None:
        self._scheduler.abort(sequence)

    def reserve(self, sequence: SequenceId, *, tokens: int, unit_hashes: Sequence[BlockHash]) -> Reservation:
        check_unit_hashes(unit_hashes, tokens=tokens)
        self._scheduler.check_absent(sequence)
        return self._handover.reserve(sequence, tokens=tokens, unit_hashes=unit_hashes)

    def attach(self, state: SequenceState, *, computed: int) -> None:
        self._check(state)
        self._handover.attach(state, computed=computed)

    def cancel_reservation(self, sequence: SequenceId) -> None:
        self._handover.cancel(sequence)

    def state_of(self, sequence: SequenceId) -> SequenceState:
        return self._scheduler.find(sequence).state()

    def has_work(self) -> bool:
        return self._scheduler.has_work()

    def listen(self, listener: GroupListener) -> None:
        self._listener = listener

    def take_prefix_change(self) -> PrefixChange:
        return self._scheduler.pool.take_prefix_change()

    def step(self) -> StepReport:
        started_s = self._clock.now_s()
        plan = self._scheduler.plan()
        if not plan.decodes and not plan.prefills:
            return StepReport(preempted=plan.preempted)
        inputs = self._inputs.build(plan)
        choices = self._run(inputs)
        for work in (*plan.decodes, *plan.prefills):
            self._scheduler.note_computed(work)
        report = self._note(plan, inputs.sampled, choices)
        seconds = self._clock.now_s() - started_s
        self._step_s += (seconds - self._step_s) * (STEP_SMOOTHING if self._step_s else 1.0)
        self._tokens_total += len(report.tokens)
        return replace(report, seconds=seconds)

    def blocks(self) -> BlockCounts:
        return count_blocks(self._scheduler, self._handover)

    def load(self) -> WorkerLoad:
        """The engine's part of a heartbeat. `lifecycle` says READY and `leases` none: the worker knows better."""
        waiting, running = self._scheduler.waiting, self._scheduler.running
        reserved = {block for table in self._handover.block_tables for block in table}
        unfinished = [*waiting, *(sequence for sequence in running if sequence.phase is Phase.PREFILL)]
        return WorkerLoad(
            lifecycle=Lifecycle.READY,
            waiting_sequences=len(waiting),
            running_sequences=len(running),
            waiting_prefill_tokens=sum(len(sequence.tokens) - sequence.computed for sequence in unfinished),
            context_tokens=sum(sequence.computed for sequence in running),
            free_blocks=self._scheduler.pool.available_blocks,
            cached_blocks=self._scheduler.pool.idle_blocks,
            reserved_blocks=len(reserved),
            step_s=self._step_s,
            tokens_total=self._tokens_total,
        )

    def check_integrity(self) -> None:
        """Assert the conservation laws: call when idle, or after every step of a test."""
        tables = [sequence.blocks for sequence in self._scheduler.sequences]
        self._scheduler.pool.check_integrity([*tables, *self._handover.block_tables])
        self._scheduler.check_integrity()

    def _check(self, state: SequenceState) -> None:
        check_tokens(state, vocabulary=self._model.facts.vocabulary)
        check_unit_hashes(state.unit_hashes, tokens=state.prompt_tokens)

    @torch.inference_mode()
    def _run(self, inputs: StepInputs) -> list[Choice]:
        """One forward pass and one choice per sampled sequence."""
        context = StepContext(
            cache=self._cache,
            write_rows=inputs.write_rows,
            groups=inputs.groups,
            on_group=self._announcer(inputs.held_spans),
        )
        output = self._model.module(
            input_ids=inputs.token_ids,
            position_ids=inputs.positions,
            use_cache=False,
            logits_to_keep=inputs.sample_rows,
            step=context,
        )
        if not inputs.sampled:
            return []
        return choose(output.logits[0], inputs.sampled, eos_token_ids=self._model.facts.eos_token_ids)

    def _announcer(self, spans: tuple[KvSpan, ...]) -> Callable[[int], None] | None:
        """What attention calls when a layer group is written, if somebody listens and something is held."""
        listener = self._listener
        if listener is None or not spans:
            return None
        device = self._cache.device
        return lambda group: listener(group, spans, fence_on(device))

    def _note(self, plan: StepPlan, sampled: tuple[LiveSequence, ...], choices: list[Choice]) -> StepReport:
        """Tell the scheduler what was chosen, and the caller what happened."""
        tokens: list[TokenOut] = []
        held: list[SequenceId] = []
        failed: list[tuple[SequenceId, str]] = []
        for sequence, choice in zip(sampled, choices, strict=True):
            if not choice.is_valid:
                self._cache.scrub(self._scheduler.fail(sequence))
                self._inputs.forget_kept()
                failed.append((sequence.sequence, "the model gave logits that are not finite"))
                continue
            finish = finish_reason(
                sequence.sampling,
                token=choice.token,
                output_tokens=sequence.output_tokens + 1,
                tokens_left=self._limits.sequence_tokens_max - len(sequence.tokens) - 1,
                eos_token_ids=self._model.facts.eos_token_ids,
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
            self._scheduler.accept(sequence, token=choice.token, finish=finish)
        return StepReport(
            tokens=tuple(tokens),
            held=tuple(held),
            failed=tuple(failed),
            prefill_tokens=plan.prefill_tokens,
            decode_sequences=len(plan.decodes),
            preempted=plan.preempted,
        )
