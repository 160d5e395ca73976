"""Replays a workload on simulated instances under one policy: the events, and nothing but their order.

Time is a number in a heap; the same inputs give the same run. Placement is the product's own policy
object, called as the router calls it. Never looks at a request's output length to decide.
Next: `instance.py` for what happens inside a replica, `handoffs.py` for what happens between two.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from sluice.policy.answer_length import AnswerLength
from sluice.policy.policy import Ask, Placed, Policy, Unplaced
from sluice.policy.waiting_line import WaitingLine
from sluice.simulator.encodes import Encodes
from sluice.simulator.fleet_view import FleetView
from sluice.simulator.gap_histogram import GapHistogram
from sluice.simulator.handoffs import Handoffs
from sluice.simulator.instance import NEVER, Instance
from sluice.simulator.instance_spec import InstanceSpec
from sluice.simulator.links import Links
from sluice.simulator.moves import Moves
from sluice.simulator.outcome import Fate, Outcome
from sluice.simulator.run_options import RunOptions
from sluice.simulator.sequence import BlockTable, SimSequence
from sluice.simulator.step_log import Deadlines
from sluice.simulator.timeline import SAMPLES, Timeline
from sluice.simulator.workload import Workload

PLACED_PER_RETRY: Final = 64
PROGRESS_EVERY: Final = 256  # requests

Handler = Callable[[float], None]


@dataclass(slots=True, kw_only=True)
class RunResult:
    """What a run left behind."""

    workload: Workload
    options: RunOptions
    outcome: Outcome
    gaps: GapHistogram
    instances: list[Instance]
    links: Links
    timeline: Timeline
    ended_s: float


class FleetRun:
    """One replay. Make it, run() it once."""

    def __init__(
        self, *, specs: Sequence[InstanceSpec], workload: Workload, policy: Policy, options: RunOptions
    ) -> None:
        assert specs
        self._workload = workload
        self._policy = policy
        self._options = options
        self.outcome = Outcome(len(workload))
        self.gaps = GapHistogram()
        self.links = Links()
        self.timeline = Timeline()
        self._moves = Moves(self, policy, options)
        self._after_step: dict[int, list[Handler]] = {}  # by slot
        self.encodes = Encodes(self, options.encode)
        self._handoffs = Handoffs(self, self.links, is_overlapped=options.is_overlapped)
        self.view = FleetView(
            kv_token_bytes=specs[0].kv_token_bytes, unit_tokens=workload.unit_tokens, stale_s=options.stale_s
        )
        self.instances: list[Instance] = []
        self._versions: list[int] = []  # by slot: which planned end counts
        self._events: list[tuple[float, int, Handler]] = []
        self._scheduled = 0
        self._pending: WaitingLine[SimSequence] = WaitingLine()  # for a place
        self._is_retrying = False
        self._live = 0  # sequences in the fleet or waiting for a place
        self._arrived = 0
        self._answers = AnswerLength()
        self._has_encoders = any(spec.encode is not None for spec in specs)
        self._longest = 0  # tokens of the longest sequence any instance can run
        for spec in specs:
            self.add_instance(spec)

    def run(self, on_progress: Callable[[int], None] | None = None) -> RunResult:
        """All arrivals, then until the fleet is empty or its time is over."""
        arrival_s = self._workload.arrival_s
        count = len(arrival_s)
        until_s = float(arrival_s[-1]) + self._options.after_s_max
        now_s = 0.0
        self._start_clocks(float(arrival_s[0]))
        while self._arrived < count or self._live or self._moves.under_way:
            next_s = float(arrival_s[self._arrived]) if self._arrived < count else NEVER
            if self._events and self._events[0][0] < next_s:
                now_s, _, handle = heapq.heappop(self._events)
                if now_s > until_s:
                    break
                handle(now_s)
            elif self._arrived < count:
                now_s = next_s
                self._arrive(now_s)
                if on_progress is not None and self._arrived % PROGRESS_EVERY == 0:
                    on_progress(self._arrived)
            else:
                break  # who is left waits for something that will not come
        self.outcome.fate[self.outcome.fate == Fate.PENDING] = Fate.LOST
        return RunResult(
            workload=self._workload,
            options=self._options,
            outcome=self.outcome,
            gaps=self.gaps,
            instances=self.instances,
            links=self.links,
            timeline=self.timeline,
            ended_s=now_s,
        )

    def add_instance(self, spec: InstanceSpec) -> Instance:
        """One more replica, ready now."""
        units = replace(spec, unit_tokens=self._workload.unit_tokens) if self._workload.hash_ids else spec
        instance = Instance(units, slot=len(self.instances), gaps=self.gaps)
        self.instances.append(instance)
        self._versions.append(0)
        self._longest = max(self._longest, _tokens_max(instance))
        self.view.add(f"{spec.name.replace(' ', '-')}-{instance.slot}", instance)
        return instance

    def at(self, time_s: float, handler: Handler) -> None:
        """Call `handler` then."""
        self._scheduled += 1
        heapq.heappush(self._events, (time_s, self._scheduled, handler))

    def after_step(self, instance: Instance, handler: Handler) -> None:
        """Call `handler` when the step that runs there has ended, before the next."""
        self._after_step.setdefault(instance.slot, []).append(handler)

    def reserve(self, instance: Instance, sequence: SimSequence, *, tokens: int, now_s: float) -> BlockTable | None:
        """Instance.reserve; its planned steps may end earlier for it."""
        ends_s = instance.ends_s
        table = instance.reserve(sequence, tokens=tokens, now_s=now_s)
        if instance.ends_s < ends_s:
            self.expect_end(instance)
        return table

    def place_again(self, sequences: Sequence[SimSequence], now_s: float) -> None:
        """These run nowhere any more and hold nothing: what they have produced is prefilled with their prompt."""
        for sequence in sequences:
            sequence.attempt += 1
            self._handoffs.abandon(sequence)
            if not self._place(sequence, now_s):
                self._wait(sequence, now_s)

    def lose(self, instance: Instance, now_s: float) -> None:
        """The instance fails now; who was there is placed again."""
        self._versions[instance.slot] += 1
        lost = instance.fail(now_s)
        images = instance.images.clear()
        for handler in self._after_step.pop(instance.slot, ()):
            handler(now_s)  # finds that nothing is there any more
        self.view.forget(instance)
        self.view.report(instance)
        self._handoffs.room_at(instance, now_s)
        self.place_again(lost, now_s)
        self.encodes.redo(images, now_s)

    def _start_clocks(self, first_s: float) -> None:
        self.at(first_s, self._sample)
        if self._options.tend_every_s > 0.0:
            self.at(first_s + self._options.tend_every_s, self._tend)
        if self._options.stale_s > 0.0:
            for instance in self.instances:
                offset_s = self._options.stale_s * (instance.slot + 1) / len(self.instances)
                self.at(first_s + offset_s, partial(self._heartbeat, instance))
        for failure in self._options.failures:
            self._moves.fail_at(failure)
        for removal in self._options.removals:
            self._moves.remove_at(removal)
        for addition in self._options.additions:
            self.at(addition.at_s, partial(self._ask_for, addition.spec))

    def _ask_for(self, spec: InstanceSpec, now_s: float) -> None:
        """A new replica starts cold."""
        instance = self.add_instance(spec)
        instance.paid_from_s = now_s
        self.view.set_ready(instance, is_ready=False)

        def ready(_time_s: float) -> None:
            self.view.set_ready(instance, is_ready=True)

        self.at(now_s + spec.start_s, ready)

    def _tend(self, now_s: float) -> None:
        self._moves.tend(now_s)
        if self._live or self._arrived < len(self._workload):
            self.at(now_s + self._options.tend_every_s, self._tend)

    def _heartbeat(self, instance: Instance, now_s: float) -> None:
        self.view.report(instance)
        if self._live or self._arrived < len(self._workload):
            self.at(now_s + self._options.stale_s, partial(self._heartbeat, instance))

    def _sample(self, now_s: float) -> None:
        self.timeline.sample(now_s, self.instances, unplaced=len(self._pending))
        if self._live or self._arrived < len(self._workload):
            longer = 2 ** (len(self.timeline.times_s) // SAMPLES)  # a long tail is sampled ever less
            self.at(now_s + longer * self._workload.duration_s / SAMPLES, self._sample)

    # ---- requests

    def _arrive(self, now_s: float) -> None:
        index = self._arrived
        self._arrived += 1
        workload, objective = self._workload, self._options.objective
        slo = objective.of(workload, index)
        sequence = SimSequence(
            index=index,
            arrival_s=now_s,
            prompt_tokens=int(workload.prompt_tokens[index]),
            output_tokens=max(1, int(workload.output_tokens[index])),
            slo=slo,
            deadlines=Deadlines(now_s + slo.ttft_s, slo.tpot_s, objective.itl_s),
            hash_ids=workload.hash_ids[index] if workload.hash_ids else (),
            image_tokens=workload.tokens_of_images(index) if self._has_encoders else (),
        )
        self._live += 1
        if sequence.image_tokens:
            if not self.encodes.start(sequence, now_s):
                self._end(sequence, Fate.REJECTED)
            return
        self.embedded(sequence, now_s)

    def can_take(self, instance: Instance) -> bool:
        """Whether an instance admits work."""
        return bool(self.view.table.is_ready[instance.slot])

    def embedded(self, sequence: SimSequence, now_s: float) -> None:
        """It needs no encoder any more: place it."""
        if self._pending:
            self._wait(sequence, now_s)
            self._place_pending(now_s)  # it may be more urgent than all who wait
        elif not self._place(sequence, now_s):
            self._wait(sequence, now_s)

    def _place(self, sequence: SimSequence, now_s: float) -> bool:
        """Ask the policy; False if nobody takes it now."""
        cached = self.view.cached_tokens(sequence.hash_ids) if sequence.hash_ids else {}
        limit = sequence.output_tokens if self._options.is_answer_asked else self._options.output_tokens_max
        may_answer = max(1, min(limit, self._longest - sequence.tokens))
        ask = Ask(
            prompt_tokens=sequence.tokens,
            output_tokens_max=may_answer,
            output_tokens_expected=self._answers.expected(tokens_max=may_answer),
            slo=sequence.slo,
            waited_s=now_s - sequence.arrival_s,
            seed=sequence.index,
        )
        decision = self._policy.place(ask, self.view.table, cached, now_s=now_s)
        if isinstance(decision, Unplaced):
            if decision.is_final or now_s - sequence.arrival_s > self._options.queue_s_max:
                self._end(sequence, Fate.REJECTED)
                return True
            return False
        self._send(sequence, decision, now_s)
        return True

    def _send(self, sequence: SimSequence, placed: Placed, now_s: float) -> None:
        prefill, decode = self.instances[placed.prefill], self.instances[placed.decode]
        longest = sequence.tokens - sequence.produced + sequence.output_tokens
        if any(longest > _tokens_max(instance) for instance in (prefill, decode)):
            self._end(sequence, Fate.REJECTED)
            return
        sequence.prefill_slot, sequence.decode_slot = placed.prefill, placed.decode
        sequence.is_held = placed.is_split and sequence.output_tokens - sequence.produced > 1
        cached_tokens = min(placed.cached_tokens, sequence.tokens - 1)
        self.view.placed(sequence, cached_tokens=cached_tokens)
        prefill.enqueue(sequence, cached_tokens=cached_tokens)
        if sequence.is_held:
            decode.incoming += 1
            self.view.changed(decode)
        self.wake(prefill, now_s)

    def _wait(self, sequence: SimSequence, now_s: float) -> None:
        self._pending.enter(sequence, tokens=sequence.tokens, urgency=sequence.slo.urgency, tenant="")
        if not self._is_retrying:
            self._is_retrying = True
            self.at(now_s + self._options.retry_every_s, self._retry)

    def _retry(self, now_s: float) -> None:
        self._is_retrying = False
        self._place_pending(now_s)
        if self._pending:
            self._is_retrying = True
            self.at(now_s + self._options.retry_every_s, self._retry)

    def _place_pending(self, now_s: float) -> None:
        """Those who wait, in the router's order, until one cannot be placed."""
        for _ in range(min(PLACED_PER_RETRY, len(self._pending))):
            sequence = self._pending.first()
            if sequence is None or not self._place(sequence, now_s):
                return
            self._pending.take_first()

    def _end(self, sequence: SimSequence, fate: Fate) -> None:
        self._live -= 1
        if fate is Fate.FINISHED:
            self.outcome.finish(sequence)
            self._answers.note(sequence.output_tokens)
        else:
            self.outcome.end(sequence.index, fate)

    # ---- instances

    def wake(self, instance: Instance, now_s: float) -> None:
        """Something came to an instance: it starts steps, or ends those it has planned earlier."""
        if not instance.is_running:
            self._plan(instance, now_s)
        elif instance.cut(now_s):
            self.expect_end(instance)
        self.view.changed(instance)

    def _plan(self, instance: Instance, now_s: float) -> None:
        preempted = instance.plan(now_s)
        if instance.prefills.started:
            for sequence in instance.prefills.started:
                if sequence.is_held:
                    self._handoffs.prefill_starts(sequence, now_s)
            instance.prefills.started.clear()
        if instance.is_running:
            self.expect_end(instance)
        if preempted:
            self._handoffs.room_at(instance, now_s)

    def expect_end(self, instance: Instance) -> None:
        """The instance's planned steps end at its ends_s; what was expected before is off."""
        slot = instance.slot
        version = self._versions[slot] = self._versions[slot] + 1

        def finish(now_s: float) -> None:
            if self._versions[slot] == version:
                self._finish_steps(instance, now_s)

        self.at(instance.ends_s, finish)

    def _finish_steps(self, instance: Instance, now_s: float) -> None:
        ended = instance.finish_steps()
        self.encodes.finished(instance, ended.encoded, now_s)
        for sequence in ended.held:
            self._handoffs.prefill_ends(sequence, now_s)
        for sequence in ended.finished:
            self._end(sequence, Fate.FINISHED)
        for handler in self._after_step.pop(instance.slot, ()):
            handler(now_s)
        self._handoffs.room_at(instance, now_s)
        if not instance.is_running:  # a handoff that starts over may have been placed here, and started it
            self._plan(instance, now_s)
        self.view.changed(instance)
        if self._pending and (ended.finished or ended.held):
            self._place_pending(now_s)


def _tokens_max(instance: Instance) -> int:
    """Longest sequence an instance can ever run."""
    return min(instance.spec.sequence_tokens_max, instance.spec.blocks * instance.spec.block_tokens)
