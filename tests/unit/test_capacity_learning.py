"""A router learns its workers' speed: curves follow drift, intervals hold, classes share."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.capacity.capacity_book import CLASS_SAMPLES_MIN, GUESS, CapacityBook, ClassKey
from sluice.capacity.curve_tracker import Z90, CurveTracker, Forgetting
from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape, chunk_pairs
from sluice.domain.ids import WorkerId
from sluice.domain.step import StepSample, StepTerms
from sluice.errors import ConfigError
from sluice.worker.step_samples import StepSamples

TRUE = StepCurve(base_s=0.008, prefill_token_s=5e-5, pair_s=4e-9, decode_s=6e-5, context_token_s=8e-8, error=0.1)
WRONG = StepCurve(base_s=0.02, prefill_token_s=2e-5, pair_s=1e-8, decode_s=2e-4, context_token_s=2e-8, error=0.3)
HELD_OUT = 600


def some_shape(rng: random.Random, *, prefill_share: float = 0.3) -> StepShape:
    decodes = rng.randrange(0, 128)
    chunk = rng.randrange(16, 2048) if rng.random() < prefill_share or not decodes else 0
    return StepShape(
        prefill_tokens=chunk,
        prefill_pairs=chunk_pairs(chunk, context_tokens=rng.randrange(0, 4000)) if chunk else 0.0,
        prefills=int(chunk > 0),
        decodes=decodes,
        context_tokens=decodes * rng.randrange(50, 3000),
    )


def taught(samples: int, *, noise: float = 0.05, seed: int = 0, prior: StepCurve = WRONG) -> CurveTracker:
    rng = random.Random(seed)
    tracker = CurveTracker(prior)
    for _ in range(samples):
        shape = some_shape(rng)
        tracker.note(shape, TRUE.step_s(shape) * max(0.2, rng.gauss(1.0, noise)))
    return tracker


def worst_error(curve: StepCurve, *, seed: int = 99) -> float:
    rng = random.Random(seed)
    shapes = [some_shape(rng) for _ in range(200)]
    return max(abs(curve.step_s(shape) / TRUE.step_s(shape) - 1) for shape in shapes)


def test_two_hundred_steps_correct_a_prior_that_was_wrong() -> None:
    assert worst_error(WRONG) > 0.5
    assert worst_error(taught(200).curve()) < 0.05


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["still", "slow drift", "heavy tails"])
def test_nine_of_ten_held_out_steps_lie_in_the_ninety_percent_interval(seed: int, kind: str) -> None:
    rng = random.Random(seed)
    tracker = CurveTracker(WRONG)
    inside = 0
    for number in range(1500 + HELD_OUT):
        shape = some_shape(rng)
        drift = 1.0 + 0.5 * number / 2100 if kind == "slow drift" else 1.0
        noise = rng.gauss(1.0, 0.06)
        if kind == "heavy tails" and rng.random() < 0.05:
            noise *= 1.5
        seconds = TRUE.step_s(shape) * drift * max(0.2, noise)
        if number >= 1500:  # predicted before it is learned from
            predicted_s = tracker.curve().step_s(shape)
            inside += abs(seconds - predicted_s) <= Z90 * tracker.error_of(shape) * predicted_s
        tracker.note(shape, seconds)
    assert inside / HELD_OUT == pytest.approx(0.9, abs=0.04)


def test_a_worker_that_slows_down_is_believed_within_its_memory() -> None:
    rng = random.Random(3)
    tracker = CurveTracker(TRUE, forgetting=Forgetting(memory=100.0))
    for number in range(2000):
        shape = some_shape(rng)
        tracker.note(shape, TRUE.step_s(shape) * (1.0 if number < 400 else 1.6))
    shape = some_shape(rng)
    assert tracker.curve().step_s(shape) == pytest.approx(1.6 * TRUE.step_s(shape), rel=0.05)


def test_decoding_for_long_forgets_nothing_of_prefill() -> None:
    tracker = taught(600)
    rng = random.Random(5)
    for _ in range(5000):
        decodes = rng.randrange(1, 128)
        shape = StepShape(decodes=decodes, context_tokens=decodes * 1000)
        tracker.note(shape, TRUE.step_s(shape))
    prompt = StepShape(prefill_tokens=1024, prefill_pairs=chunk_pairs(1024, context_tokens=0), prefills=1)
    assert tracker.curve().step_s(prompt) == pytest.approx(TRUE.step_s(prompt), rel=0.1)


@given(
    st.lists(
        st.tuples(st.integers(0, 4096), st.integers(0, 200), st.integers(0, 10**6), st.floats(1e-5, 10.0)),
        min_size=1,
        max_size=30,
    )
)
def test_no_history_makes_a_term_negative_or_an_error_leave_its_bounds(
    history: list[tuple[int, int, int, float]],
) -> None:
    tracker = CurveTracker(WRONG)
    for tokens, decodes, context, seconds in history:
        shape = StepShape(tokens, tokens * 7.5, int(tokens > 0), decodes, context * (decodes > 0))
        tracker.note(shape, seconds)
    curve = tracker.curve()
    terms = (curve.base_s, curve.prefill_token_s, curve.pair_s, curve.decode_s, curve.context_token_s)
    assert all(term >= 0.0 for term in terms)
    assert sum(terms) > 0.0
    assert 0.0 < curve.error <= 3.0


def test_steps_that_cannot_be_are_not_learned_from() -> None:
    tracker = CurveTracker(TRUE)
    shape = StepShape(decodes=1, context_tokens=10)
    assert not tracker.note(shape, 0.0)
    assert not tracker.note(shape, float("nan"))
    assert not tracker.note(shape, 1e9)
    assert not tracker.note(StepShape(), 0.01)
    assert not tracker.note(StepShape(prefill_tokens=5, prefill_pairs=float("inf")), 0.01)
    assert tracker.samples == 0
    with pytest.raises(ConfigError, match="memory"):
        Forgetting(memory=0.0)


KEY = ClassKey(gpu_class="H100", tensor_parallel=1, model="m")
TERMS = StepTerms(WRONG.base_s, WRONG.prefill_token_s, WRONG.pair_s, WRONG.decode_s, WRONG.context_token_s, 0.3)


def reports(count: int, *, first: int = 1, seed: int = 1) -> list[StepSample]:
    rng = random.Random(seed)
    shapes = [some_shape(rng) for _ in range(count)]
    return [StepSample(first + at, *shape, TRUE.step_s(shape)) for at, shape in enumerate(shapes)]


def test_a_repeated_report_counts_once() -> None:
    book = CapacityBook()
    book.join(WorkerId("w"), KEY, TERMS)
    samples = reports(8)
    assert book.note(WorkerId("w"), samples)
    assert not book.note(WorkerId("w"), samples)
    assert book.curve(WorkerId("w")).samples == 8


def test_a_new_worker_of_a_measured_class_starts_from_what_its_siblings_taught() -> None:
    book = CapacityBook()
    book.join(WorkerId("old"), KEY, TERMS)
    for first in range(1, 400, 8):
        book.note(WorkerId("old"), reports(8, first=first, seed=first))
    book.join(WorkerId("new"), KEY, TERMS)
    assert worst_error(book.curve(WorkerId("new"))) < 0.06
    book.join(WorkerId("other"), replace(KEY, gpu_class="L4"), TERMS)
    assert worst_error(book.curve(WorkerId("other"))) > 0.5
    assert book.classes()[KEY].samples >= CLASS_SAMPLES_MIN


def test_a_worker_that_says_nothing_is_guessed_and_one_that_left_is_forgotten() -> None:
    book = CapacityBook()
    book.join(WorkerId("w"), KEY, None)
    assert replace(book.curve(WorkerId("w")), samples=0) == GUESS
    book.leave(WorkerId("w"))
    assert not book.note(WorkerId("w"), reports(1))
    assert book.curve(WorkerId("w")) == GUESS


def test_a_flood_of_samples_in_one_report_is_cut() -> None:
    book = CapacityBook()
    book.join(WorkerId("w"), KEY, TERMS)
    book.note(WorkerId("w"), reports(1000))
    assert book.curve(WorkerId("w")).samples <= 32


def test_a_worker_reports_the_newest_steps_of_both_kinds() -> None:
    samples = StepSamples()
    prompt = StepShape(prefill_tokens=10, prefill_pairs=55.0, prefills=1)
    samples.note(prompt, 0.1)
    for _ in range(100):
        samples.note(StepShape(decodes=1, context_tokens=5), 0.01)
    samples.note(StepShape(), 0.0)
    latest = samples.latest()
    assert [sample.number for sample in latest] == [1, 98, 99, 100, 101]
    assert latest[0] == StepSample(1, *prompt, 0.1)
