"""Follows one replica's step curve as measurements come in: recursive least squares that forgets.

Fits relative errors (rows divided by the measured seconds), coefficients never negative, drawn towards a
prior so that terms nobody has measured keep theirs. Prefill steps and pure decode steps forget separately:
a worker that only decodes for an hour keeps what it knew of prefill. The error follows the measurements until
nine of ten lie in their 90 % interval (adaptive conformal inference, Gibbs and Candes, NeurIPS 2021).
Pure. Next: `capacity_book.py`, which has one per worker and one per class.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape
from sluice.errors import ConfigError

Z90: Final = 1.645  # a normal's central 90 % lie within this many standard deviations
MISSES: Final = 0.1

ERROR_MIN: Final = 0.005
ERROR_MAX: Final = 3.0
ERROR_STEP_FIRST: Final = 0.5  # how fast the error follows at first; less with every measurement
ERROR_STEP_LAST: Final = 0.08
PRIOR_FADES: Final = 15.0  # measurements until the prior weighs half
SWEEPS: Final = 30
SECONDS_MIN: Final = 1e-7
SECONDS_MAX: Final = 3600.0
TERMS: Final = 5
TERM_FLOOR: Final = 1e-12  # seconds; a prior's zero still lets its term grow

Vector = list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """How long measurements count. `memory` steps back they weigh 1/e."""

    memory: float = 400.0
    prior_weight: float = 0.3  # of each term, in measurements; it fades as they come

    def __post_init__(self) -> None:
        if self.memory <= 1.0 or self.prior_weight <= 0.0:
            raise ConfigError("forgetting: use a memory above 1 and a prior weight above 0")


USUAL: Final = Forgetting()


class _Sums:
    """Weighted products of rows: all that least squares needs of the past."""

    def __init__(self) -> None:
        self.rows = [[0.0] * TERMS for _ in range(TERMS)]  # sum of x x'
        self.values = [0.0] * TERMS  # sum of x, as the value wanted is 1

    def add(self, row: Vector, *, keep: float) -> None:
        for i, one in enumerate(row):
            line = self.rows[i]
            for j in range(TERMS):
                line[j] = line[j] * keep + one * row[j]
            self.values[i] = self.values[i] * keep + one


class CurveTracker:
    """The curve of one replica, or of a class. One owner."""

    def __init__(self, prior: StepCurve, *, forgetting: Forgetting = USUAL) -> None:
        self._prior = prior
        self._keep = math.exp(-1.0 / forgetting.memory)
        self._weight = forgetting.prior_weight
        self._prefill = _Sums()
        self._decode = _Sums()
        self._error = {True: prior.error, False: prior.error}
        self._seen = {True: 0, False: 0}  # samples, with and without prefill
        self._curve = replace(prior, samples=0)
        self._is_stale = False

    @property
    def samples(self) -> int:
        """Measurements taken so far."""
        return self._seen[True] + self._seen[False]

    def lean_on(self, prior: StepCurve) -> None:
        """From now on draw towards another prior: what was learned of the class, say."""
        self._prior = prior
        self._is_stale = True

    def note(self, shape: StepShape, seconds: float) -> bool:
        """A step of this shape took `seconds`. False, and nothing learned, for an empty or impossible one."""
        if not SECONDS_MIN <= seconds <= SECONDS_MAX or not (shape.prefill_tokens or shape.decodes):
            return False
        if not all(0.0 <= value < 1e15 for value in shape):
            return False
        has_prefill = shape.prefill_tokens > 0
        self._judge(self.curve().step_s(shape), seconds, has_prefill=has_prefill)
        row = [term / seconds for term in _terms(shape)]
        (self._prefill if has_prefill else self._decode).add(row, keep=self._keep)
        self._seen[has_prefill] += 1
        self._is_stale = True
        return True

    def curve(self) -> StepCurve:
        """The best curve now; its `error` is the wider of the two kinds of steps'."""
        if self._is_stale:
            self._solve()
        seen = [kind for kind, count in self._seen.items() if count]
        error = max((self._error[kind] for kind in seen), default=self._prior.error)
        return replace(self._curve, error=error, samples=self.samples)

    def error_of(self, shape: StepShape) -> float:
        """Relative standard deviation of a prediction for steps of this kind."""
        return self._error[shape.prefill_tokens > 0]

    def _judge(self, predicted_s: float, seconds: float, *, has_prefill: bool) -> None:
        """Widen the error after a miss and narrow it after a hit, so that one in ten misses in the long run."""
        seen = self._seen[has_prefill]
        step = max(ERROR_STEP_LAST, ERROR_STEP_FIRST / math.sqrt(1 + seen / 10))
        error = self._error[has_prefill]
        is_miss = abs(seconds - predicted_s) > Z90 * error * predicted_s
        error *= math.exp(step * ((1.0 if is_miss else 0.0) - MISSES))
        self._error[has_prefill] = min(ERROR_MAX, max(ERROR_MIN, error))

    def _solve(self) -> None:
        """Coordinate descent on the sums and the prior, from where it was; every term stays >= 0."""
        prior = _coefficients(self._prior)
        weight = self._weight * PRIOR_FADES / (PRIOR_FADES + self.samples)
        pulls = [weight / max(term, TERM_FLOOR) ** 2 for term in prior]
        found = _coefficients(self._curve)
        rows = [
            [one + other for one, other in zip(*lines, strict=True)]
            for lines in zip(self._prefill.rows, self._decode.rows, strict=True)
        ]
        values = [one + other for one, other in zip(self._prefill.values, self._decode.values, strict=True)]
        for _ in range(SWEEPS):
            for i in range(TERMS):
                line = rows[i]
                others = sum(line[j] * found[j] for j in range(TERMS)) - line[i] * found[i]
                found[i] = max(0.0, (values[i] - others + pulls[i] * prior[i]) / (line[i] + pulls[i]))
        base, token, pair, decode, context = found
        self._curve = StepCurve(
            base_s=base, prefill_token_s=token, pair_s=pair, decode_s=decode, context_token_s=context
        )
        self._is_stale = False


def _terms(shape: StepShape) -> Vector:
    return [
        1.0,
        float(shape.prefill_tokens),
        float(shape.prefill_pairs),
        float(shape.decodes),
        float(shape.context_tokens),
    ]


def _coefficients(curve: StepCurve) -> Vector:
    return [curve.base_s, curve.prefill_token_s, curve.pair_s, curve.decode_s, curve.context_token_s]
