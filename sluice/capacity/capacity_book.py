"""What a router has learned of its workers' speed: one curve a worker, one a GPU class, from their reports.

A new worker starts from its class's curve once that has been measured, else from what it says it expects,
else from a cautious guess. Samples that a heartbeat repeats count once. Pure and bounded.
Next: `curve_tracker.py`; `router/books.py` keeps what has been sent since a report.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sluice.capacity.curve_tracker import CurveTracker
from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape
from sluice.domain.ids import WorkerId
from sluice.domain.step import StepSample, StepTerms

CLASS_SAMPLES_MIN: Final = 50  # before a class is believed more than a worker's own word
SAMPLES_PER_REPORT_MAX: Final = 32  # more in one heartbeat are not looked at
CLASSES_MAX: Final = 256  # beyond, workers of new classes stand for themselves

GUESS: Final = StepCurve(base_s=0.02, prefill_token_s=1e-4, pair_s=1e-8, decode_s=2e-4, context_token_s=1e-7, error=1.0)
"""Of a worker that says nothing: slow, and known to be a guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassKey:
    """Replicas that should be equally fast."""

    gpu_class: str
    tensor_parallel: int
    model: str


@dataclass(slots=True)
class _Entry:
    key: ClassKey
    tracker: CurveTracker
    latest: dict[bool, int]  # newest sample's number, with and without prefill
    is_leaning: bool = False  # on its class


class CapacityBook:
    """Curves by worker and by class. One owner."""

    def __init__(self) -> None:
        self._workers: dict[WorkerId, _Entry] = {}
        self._classes: dict[ClassKey, CurveTracker] = {}

    def join(self, worker: WorkerId, key: ClassKey, terms: StepTerms | None) -> None:
        """A worker, or a new incarnation of one, that expects `terms` of its steps."""
        told = GUESS if terms is None else _curve(terms)
        pooled = self._classes.get(key)
        if pooled is None and len(self._classes) < CLASSES_MAX:
            pooled = self._classes[key] = CurveTracker(told)
        knows = pooled is not None and pooled.samples >= CLASS_SAMPLES_MIN
        prior = pooled.curve() if pooled is not None and knows else told
        self._workers[worker] = _Entry(key, CurveTracker(prior), {True: 0, False: 0}, is_leaning=knows)

    def leave(self, worker: WorkerId) -> None:
        """The worker is gone; its class keeps what it taught. Unknown ones are ignored."""
        self._workers.pop(worker, None)

    def note(self, worker: WorkerId, samples: Iterable[StepSample]) -> bool:
        """A worker reports steps. Whether anything new was learned. Unknown workers are ignored."""
        entry = self._workers.get(worker)
        if entry is None:
            return False
        pooled = self._classes.get(entry.key)
        learned = False
        for sample in list(samples)[:SAMPLES_PER_REPORT_MAX]:
            has_prefill = sample.prefill_tokens > 0
            if sample.number <= entry.latest[has_prefill]:
                continue
            entry.latest[has_prefill] = sample.number
            shape = StepShape(*sample[1:-1])
            learned |= entry.tracker.note(shape, sample.seconds)
            if pooled is not None:
                pooled.note(shape, sample.seconds)
        if pooled is not None and not entry.is_leaning and pooled.samples >= CLASS_SAMPLES_MIN:
            entry.tracker.lean_on(pooled.curve())
            entry.is_leaning = True
        return learned

    def curve(self, worker: WorkerId) -> StepCurve:
        """A worker's curve now; the guess for one that is not here."""
        entry = self._workers.get(worker)
        return GUESS if entry is None else entry.tracker.curve()

    def classes(self) -> Mapping[ClassKey, StepCurve]:
        """Every class that had a worker here, and its curve."""
        return {key: tracker.curve() for key, tracker in self._classes.items()}


def _curve(terms: StepTerms) -> StepCurve:
    base, token, pair, decode, context, error = (max(0.0, term) for term in terms)
    return StepCurve(
        base_s=base,
        prefill_token_s=token,
        pair_s=pair,
        decode_s=decode,
        context_token_s=context,
        error=error or GUESS.error,
    )
