"""The steps one instance has run, compressed: equal batches are one row, however many steps they took.

Decides nothing. A sequence that decoded from one step to another asks afterwards how its tokens
were spaced: its largest gap, how many gaps were too long, how many tokens were late. The answer is
exact, because step times within a row grow linearly (a batch that only decodes grows its context by
one token per sequence and step). Next: `instance.py`, which writes the rows.

    row:  start_s          start_s + step_s                                  end
            |----- step_s -----|--- step_s + growth_s ---|-- + 2 growth_s --|
          token              token                     token              token
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

ROWS_AT_FIRST: Final = 256
FIRST, STEPS, START, STEP, GROWTH = range(5)

Rows = npt.NDArray[np.float64]


class Spacing(NamedTuple):
    """How the tokens of one stretch of decoding were spaced."""

    worst_gap_s: float
    long_gaps: int  # gaps above the limit asked about
    late_tokens: int  # tokens after their deadline
    last_s: float  # when the last token came


class Deadlines(NamedTuple):
    """What one sequence's tokens are held against. Token i is due at `first_due_s + i * tpot_s`."""

    first_due_s: float
    tpot_s: float
    gap_s_max: float


def row_end_s(start_s: float, steps: int, step_s: float, growth_s: float) -> float:
    """When `steps` steps that start at `start_s` have ended."""
    return start_s + steps * step_s + growth_s * (steps * (steps - 1) / 2)


class StepLog:
    """Rows in order of time. Only steps that decoded are logged."""

    def __init__(self) -> None:
        self._rows: Rows = np.zeros((ROWS_AT_FIRST, 5))
        self._count = 0

    @property
    def is_full(self) -> bool:
        """Whether the next append() would reallocate: the owner may trim() first."""
        return self._count == len(self._rows)

    def append(self, *, first: int, steps: int, start_s: float, step_s: float, growth_s: float) -> None:
        """Steps [first, first + steps) ran: the first from `start_s` for `step_s`, each next `growth_s` longer."""
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[self._count] = (first, steps, start_s, step_s, growth_s)
        self._count += 1

    def trim(self, first_needed: int) -> None:
        """Forget the rows that end at or before step `first_needed`."""
        starts = self._rows[: self._count, FIRST]
        keep = max(0, int(np.searchsorted(starts, first_needed, side="right")) - 1)
        kept = self._count - keep
        self._rows[:kept] = self._rows[keep : self._count].copy()
        self._count = kept

    def spacing(self, first: int, end: int, *, previous_s: float, token: int, deadlines: Deadlines) -> Spacing:
        """Judge the tokens of steps [first, end), whole rows: a sequence's tokens `token`, `token + 1`, ...

        `previous_s` is when the token before them came.
        """
        starts = self._rows[: self._count, FIRST]
        low = int(np.searchsorted(starts, first, side="left"))
        high = int(np.searchsorted(starts, end, side="left"))
        rows = self._rows[low:high]
        assert starts[low] == first, "a sequence joins and leaves between rows"
        steps, step_s, growth_s = rows[:, STEPS], rows[:, STEP], rows[:, GROWTH]
        firsts_s = rows[:, START] + step_s  # when each row's first token came
        ends_s = firsts_s + (steps - 1) * (step_s + growth_s * (steps / 2))
        gaps_s = firsts_s.copy()
        gaps_s[0] -= previous_s
        gaps_s[1:] -= ends_s[:-1]
        last_gaps_s = step_s + growth_s * (steps - 1)
        worst_s = max(float(gaps_s.max()), float(np.where(steps > 1, last_gaps_s, 0.0).max()))
        long_gaps = 0 if worst_s <= deadlines.gap_s_max else _long_gaps(rows, gaps_s, deadlines.gap_s_max)
        first_due_s = deadlines.first_due_s + deadlines.tpot_s * (token - first + rows[:, FIRST])
        late_firsts_s = firsts_s - first_due_s
        late_ends_s = ends_s - first_due_s - deadlines.tpot_s * (steps - 1)
        late = 0
        if late_firsts_s.max() > 0.0 or late_ends_s.max() > 0.0:
            late = _late_tokens(rows, late_firsts_s, late_ends_s, deadlines.tpot_s)
        return Spacing(worst_s, long_gaps, late, float(ends_s[-1]))


def _long_gaps(rows: Rows, gaps_s: Rows, gap_s_max: float) -> int:
    """Gaps above the limit: the first of each row by itself, the rest from its linear growth."""
    rest = rows[:, STEPS] - 1
    step_s, growth_s = rows[:, STEP], rows[:, GROWTH]
    room_s = gap_s_max - step_s  # gap i of a row is too long where growth_s * i > room_s
    is_flat = growth_s <= 0.0
    within = np.floor(np.clip(room_s, 0.0, None) / np.where(is_flat, 1.0, growth_s))
    growing = rest - np.clip(within, 0.0, rest)
    flat = np.where(room_s < 0.0, rest, 0.0)
    return int((gaps_s > gap_s_max).sum() + np.where(is_flat, flat, growing).sum())


def _late_tokens(rows: Rows, late_firsts_s: Rows, late_ends_s: Rows, tpot_s: float) -> int:
    """Tokens after their deadline. Lateness is convex over a row: where its ends do not decide, all are tried."""
    late = 0
    touched = np.flatnonzero((late_firsts_s > 0.0) | (late_ends_s > 0.0))
    for row, first_s, end_s in zip(rows[touched], late_firsts_s[touched], late_ends_s[touched], strict=True):
        steps, step_s, growth_s = int(row[STEPS]), row[STEP], row[GROWTH]
        falls_throughout = step_s + growth_s * (steps - 1) <= tpot_s
        rises_throughout = step_s + growth_s >= tpot_s
        if (rises_throughout and first_s > 0.0) or (falls_throughout and end_s > 0.0):
            late += steps
        else:
            after = np.arange(steps)
            lateness_s = first_s + after * (step_s - tpot_s) + growth_s * (after * (after + 1) / 2)
            late += int((lateness_s > 0.0).sum())
    return late
