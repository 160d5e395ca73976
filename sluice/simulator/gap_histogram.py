"""How long all gaps between tokens were: counts by size, a percent wide, so that a billion gaps fit.

Decides nothing, forgets who the gaps belonged to. Next: `instance.py`, which fills it.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

BINS_PER_E: Final = 100  # bins per factor e: each is 1 % wide
SHORTEST_S: Final = 1e-5
LONGEST_S: Final = 1e5
_SHIFT: Final = math.log(SHORTEST_S) * BINS_PER_E
BINS: Final = math.ceil(math.log(LONGEST_S) * BINS_PER_E - _SHIFT)


class GapHistogram:
    """Counts of gaps. Quantiles are right to 1 %."""

    def __init__(self) -> None:
        self.counts = [0] * BINS
        self.total_s = 0.0

    def add(self, gap_s: float, count: int = 1) -> None:
        """`count` gaps of this length."""
        if count:
            self.counts[_bin(gap_s)] += count
            self.total_s += gap_s * count

    def add_growing(self, gap_s: float, growth_s: float, *, steps: int, count: int) -> None:
        """`count` gaps in each of `steps` steps, from `gap_s` on, each step `growth_s` longer."""
        if steps <= 0 or count == 0:
            return
        done = 0
        last_bin = _bin(gap_s + growth_s * (steps - 1))
        while done < steps:
            here = _bin(gap_s + growth_s * done)
            if here >= last_bin:
                upto = steps
            else:
                edge_s = math.exp((here + 1 + _SHIFT) / BINS_PER_E)
                upto = min(steps, max(done + 1, math.ceil((edge_s - gap_s) / growth_s)))
            self.counts[here] += count * (upto - done)
            done = upto
        self.total_s += count * steps * (gap_s + growth_s * (steps - 1) / 2)

    @property
    def total(self) -> int:
        """How many gaps."""
        return sum(self.counts)

    def quantile_s(self, share: float) -> float:
        """The gap that `share` of all gaps do not exceed; 0 without gaps."""
        counts = np.cumsum(self.counts)
        if counts[-1] == 0:
            return 0.0
        return _middle_s(int(np.searchsorted(counts, share * counts[-1])))

    def cdf(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Gap lengths in seconds, and the share of gaps up to each; empty without gaps."""
        counts = np.asarray(self.counts, dtype=np.float64)
        used = np.flatnonzero(counts)
        lengths_s = np.exp((used + 0.5 + _SHIFT) / BINS_PER_E)
        return lengths_s, np.cumsum(counts[used]) / max(1.0, counts.sum())


def _bin(gap_s: float) -> int:
    if gap_s <= SHORTEST_S:
        return 0
    return min(BINS - 1, int(math.log(gap_s) * BINS_PER_E - _SHIFT))


def _middle_s(index: int) -> float:
    return math.exp((index + 0.5 + _SHIFT) / BINS_PER_E)
