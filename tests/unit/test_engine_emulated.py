"""The emulated engine: production's scheduler and blocks, tokens from a rule, time from a step model."""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape
from sluice.clock import ManualClock
from sluice.domain.ids import SequenceId
from sluice.engine import emulated_model
from sluice.engine.contract import EngineLimits, Fence, KvSpan
from sluice.engine.emulated_runner import EmulatedRunner
from sluice.engine.engine import PagedEngine
from sluice.engine.pace import CATCH_UP_S_MAX, RealPace
from sluice.testing.sequence_states import sequence_state
from sluice.testing.simulation import toy_model

CURVE = StepCurve(base_s=0.01, prefill_token_s=1e-4, pair_s=0.0, decode_s=1e-3, context_token_s=0.0)
PROMPT = [20 + at % 300 for at in range(70)]


@dataclass
class SleepyClock(ManualClock):
    """A clock that sleeping moves, always a little further than asked."""

    overshoot_s: float = 0.0
    sleeps_s: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.sleeps_s.append(seconds)
        self.advance(seconds + self.overshoot_s)


def engine_of(clock: SleepyClock) -> tuple[PagedEngine, memoryview]:
    geometry = toy_model.geometry(blocks=32, block_tokens=16)
    memory = memoryview(bytearray(geometry.region_bytes))
    pace = RealPace(CURVE, now_s=clock.now_s, sleep=clock.sleep)
    runner = EmulatedRunner(toy_model.FACTS, geometry, memory, rule=toy_model.RULE, pace=pace)
    limits = EngineLimits(batch_sequences_max=8, step_tokens_max=64, sequence_tokens_max=400)
    return PagedEngine(runner, geometry=geometry, limits=limits, clock=clock), memory


def run(engine: PagedEngine) -> list[int]:
    tokens = []
    while engine.has_work():
        tokens += [out.token for out in engine.step().tokens]
        engine.check_integrity()
    return tokens


def test_tokens_are_those_of_the_rule_whatever_the_batch() -> None:
    engine, _ = engine_of(SleepyClock())
    state = sequence_state(1, PROMPT, max_tokens=30, seed=5, ignore_eos=True)
    other = sequence_state(2, PROMPT[:33], max_tokens=30, seed=6, ignore_eos=True)
    engine.add(state, hold=False)
    engine.add(other, hold=False)
    found: dict[SequenceId, list[int]] = {SequenceId(1): [], SequenceId(2): []}
    while engine.has_work():
        for out in engine.step().tokens:
            found[out.sequence].append(out.token)
    assert found[SequenceId(1)] == toy_model.answer(PROMPT, state.sampling)
    assert found[SequenceId(2)] == toy_model.answer(PROMPT[:33], other.sampling)


def test_a_step_lasts_what_the_model_says_and_waking_late_does_not_add_up() -> None:
    clock = SleepyClock(overshoot_s=0.0005)
    engine, _ = engine_of(clock)
    engine.add(sequence_state(1, PROMPT[:64], max_tokens=101, ignore_eos=True), hold=False)
    run(engine)
    expected_s = CURVE.step_s(StepShape(prefill_tokens=64, prefills=1)) + 100 * CURVE.step_s(StepShape(decodes=1))
    assert clock.now_s() == pytest.approx(expected_s, abs=0.001)


def test_time_without_work_is_not_made_up_for() -> None:
    clock = SleepyClock()
    engine, _ = engine_of(clock)
    for number in (1, 2):
        engine.add(sequence_state(number, PROMPT[:64], max_tokens=1), hold=False)
        started_s = clock.now_s()
        run(engine)
        assert clock.now_s() - started_s > 0.01
        clock.advance(0.03)


def test_a_machine_that_is_too_slow_catches_up_a_little_and_no_more() -> None:
    clock = SleepyClock()
    pace = RealPace(CURVE, now_s=clock.now_s, sleep=clock.sleep)
    shape = StepShape(decodes=1)
    pace.begin(shape)
    clock.advance(10.0)
    pace.reach(1.0)
    pace.begin(shape)
    pace.reach(1.0)
    assert clock.sleeps_s == [], "it is behind"
    for _ in range(round(CATCH_UP_S_MAX / 0.011) + 1):
        pace.begin(shape)
        pace.reach(1.0)
    assert clock.sleeps_s, "it has caught up what counts"


def test_steps_are_timed_as_the_emulated_gpu_takes_them_however_late_this_machine_wakes() -> None:
    clock = SleepyClock(overshoot_s=0.004)
    pace = RealPace(CURVE, now_s=clock.now_s, sleep=clock.sleep)
    shape = StepShape(decodes=1)
    times_s = [pace.now_s()]
    for _ in range(5):
        pace.begin(shape)
        pace.reach(1.0)
        times_s.append(pace.now_s())
    gaps_s = [after - before for before, after in pairwise(times_s)]
    assert gaps_s == [pytest.approx(CURVE.step_s(shape))] * 5


def test_layer_groups_are_announced_as_the_step_passes() -> None:
    clock = SleepyClock()
    engine, _ = engine_of(clock)
    heard: list[tuple[int, float, int]] = []

    def listen(group: int, spans: "list[KvSpan]", fence: Fence) -> None:
        fence.wait()
        heard.append((group, clock.now_s(), spans[0].end))

    engine.listen(listen)  # type: ignore[arg-type]  # a list is what it gets
    engine.add(sequence_state(1, PROMPT[:64], max_tokens=5), hold=True)
    assert engine.step().held == (SequenceId(1),)
    step_s = CURVE.step_s(StepShape(prefill_tokens=64, prefills=1))
    assert heard == [(0, pytest.approx(step_s / 2), 64), (1, pytest.approx(step_s), 64)]


def hand_over(*, flip_byte_at: int | None) -> list[int]:
    """Prefill on one engine, copy the KV to another, with one byte changed on the way; the second's tokens."""
    source, source_memory = engine_of(SleepyClock())
    target, target_memory = engine_of(SleepyClock())
    state = sequence_state(1, PROMPT, max_tokens=20, seed=3, ignore_eos=True)
    source.add(state, hold=True)
    first = run(source)
    extent = source.kv_of(SequenceId(1))
    reserved = target.reserve(SequenceId(1), tokens=extent.computed, unit_hashes=state.unit_hashes)
    geometry = source.geometry
    for group in range(geometry.groups):
        size = geometry.block_bytes(group)
        for one, other in zip(extent.blocks, reserved.blocks, strict=False):
            start, end = geometry.group_offset(group) + one * size, geometry.group_offset(group) + other * size
            target_memory[end : end + size] = source_memory[start : start + size]
    if flip_byte_at is not None:
        at = geometry.group_offset(1) + reserved.blocks[0] * geometry.block_bytes(1) + flip_byte_at
        target_memory[at] ^= 1
    target.attach(source.state_of(SequenceId(1)), computed=extent.computed)
    return first + run(target)


def test_a_handed_over_sequence_goes_on_with_the_same_tokens() -> None:
    sampling = sequence_state(1, PROMPT, max_tokens=20, seed=3, ignore_eos=True).sampling
    assert hand_over(flip_byte_at=None) == toy_model.answer(PROMPT, sampling)


@pytest.mark.parametrize("byte", [0, 17, 63, 64, 127])
def test_one_wrong_byte_in_a_transfer_changes_the_tokens_after_it(byte: int) -> None:
    right = hand_over(flip_byte_at=None)
    wrong = hand_over(flip_byte_at=byte)
    assert wrong[0] == right[0], "the first token was chosen before the transfer"
    assert sum(one != other for one, other in zip(wrong[1:], right[1:], strict=True)) >= 17


def test_tokens_that_must_not_come_yet_are_passed_over() -> None:
    state = sequence_state(1, PROMPT, max_tokens=400, min_tokens=400, seed=1)
    marks: list[int] = []
    emulated_model.extend_marks(marks, PROMPT, end=len(PROMPT))
    for mark in range(2000):
        token = emulated_model.next_token(mark, 0, sampling=state.sampling, output_tokens=0, rule=toy_model.RULE)
        assert token not in toy_model.EOS
        assert toy_model.TOKEN_MIN < token < toy_model.VOCABULARY
