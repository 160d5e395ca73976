"""Policies side by side on the same requests: means over seeds, and intervals of paired differences.

Every policy sees the same draws, so what differs between two is the policy: the interval is of the
difference, by Student's t over seeds. Decides nothing.
"""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Final, NamedTuple

# Student's t, two-sided 95 %, by degrees of freedom; beyond the end the normal's.
_T95: Final = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_NORMAL95: Final = 1.96


class Interval(NamedTuple):
    """A mean and half the width of its 95 % interval; NaN from one value."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if math.isnan(self.half) else f"{self.mean:.4g} ± {self.half:.2g}"

    @property
    def is_positive(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.mean - self.half > 0.0


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of independent values."""
    count = len(values)
    if count < 2:
        return Interval(values[0], math.nan)
    freedom = count - 1
    t95 = _T95[freedom - 1] if freedom <= len(_T95) else _NORMAL95
    return Interval(fmean(values), t95 * stdev(values) / math.sqrt(count))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """The interval of ours - theirs, seed by seed."""
    return interval([mine - other for mine, other in zip(ours, theirs, strict=True)])


def highest_rate(attained: Callable[[float], float], *, share: float, low: float, high: float, step: float) -> float:
    """The highest rate between `low` and `high` at which `attained(rate)` is still `share`, by bisection to `step`
    of itself; 0 where even `low` is too much. Attainment must fall with the rate."""
    if attained(low) < share:
        return 0.0
    while attained(high) >= share:
        low, high = high, high * 2
    while high - low > step * high:
        middle = (low + high) / 2
        if attained(middle) >= share:
            low = middle
        else:
            high = middle
    return low
