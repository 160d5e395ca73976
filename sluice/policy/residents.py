"""Remembers whom a policy has placed where lately, by SLO class: what a newcomer could spoil, and for whom.

A table of the fleet counts sequences, not promises; which objectives they have is remembered from the
placements themselves, fading with a time constant, so that no report must carry it and a lost worker is
forgotten. Shares are estimates: other routers place too. Decides nothing, reads no clock. Next: `worth.py`.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from sluice.domain.slo import SloClass
from sluice.policy.fleet_table import FloatColumn

WINDOW_S: Final = 10.0
"""How long a placement counts."""

CLASSES_MAX: Final = 6
"""Different objectives told apart; further ones count as the last."""

ONE_CLASS: Final = 0.95
"""Share of the placements."""

UNKNOWN: Final = 1e-6
"""A trace of every newcomer's own class: where nothing was placed yet, all who are there count as of that class."""


TINY_S: Final = 1e-9
"""Free rows predict nothing."""

Matrix = npt.NDArray[np.float64]


class Residents:
    """Placements by worker and class. One owner."""

    def __init__(self) -> None:
        self._lines: dict[tuple[float, float], int] = {}  # (tpot_s, miss_cost) -> line
        self._outputs = np.zeros((1, 0))  # [classes, slots]: sequences placed to decode there
        self._prompt_s = np.zeros(0)  # [slots]: seconds of prompts placed there
        self._faded_s = 0.0

    def fade(self, *, rows: int, now_s: float) -> None:
        """Bring everything to `now_s`; call before reading."""
        if self._prompt_s.size < rows:
            more = 2 * rows - self._prompt_s.size
            self._prompt_s = np.concatenate([self._prompt_s, np.zeros(more)])
            self._outputs = np.concatenate([self._outputs, np.zeros((len(self._outputs), more))], axis=1)
        if now_s > self._faded_s:
            left = math.exp(-(now_s - self._faded_s) / WINDOW_S)
            self._prompt_s *= left
            self._outputs *= left
            self._faded_s = now_s

    def placed(self, slo: SloClass, *, prefill: int, decode: int, prompt_s: float) -> None:
        """A sequence of this class goes there; its prompt takes `prompt_s` seconds."""
        line = self._line(slo)  # may make a new array of what follows
        self._outputs[line, decode] += 1.0
        self._prompt_s[prefill] += prompt_s

    @property
    def are_of_one_class(self) -> bool:
        """Whether nearly all that was placed lately had the same objectives."""
        if len(self._lines) < 2:
            return True
        lately = self._outputs.sum(axis=1)
        return bool(lately.max() >= ONE_CLASS * lately.sum())

    def prompt_share(self, rows: int) -> FloatColumn:
        """The part of its time each worker spent on prompts lately."""
        shares: FloatColumn = self._prompt_s[:rows] * (1.0 / WINDOW_S)
        return shares

    def missed(
        self, slo: SloClass, steps_s: Matrix, *, steepness: FloatColumn, sequences: FloatColumn
    ) -> Sequence[FloatColumn]:
        """What it costs that some of the `sequences` at each worker miss their TPOT, if its steps take this long.

        One column for every line of `steps_s`, [lines, rows]; one of `slo` comes. A miss is less likely the less
        certain a prediction, by `steepness`.
        """
        return tuple(self._missed(self._line(slo), steps_s, steepness, sequences))

    def expected(self, step_s: FloatColumn, *, steepness: FloatColumn, sequences: FloatColumn) -> FloatColumn:
        """The same as things are, by worker; who was not placed from here is not counted."""
        if not self._lines:
            return np.zeros(len(step_s))
        return self._missed(None, step_s, steepness, sequences)

    def _missed(
        self, newcomer: int | None, steps_s: Matrix, steepness: FloatColumn, sequences: FloatColumn
    ) -> npt.NDArray[np.float64]:
        lately = self._outputs[:, : len(sequences)]
        total = lately.sum(axis=0) if len(lately) > 1 else lately[0]
        each = sequences / (total + UNKNOWN)
        inverse_s = 1.0 / (steps_s + TINY_S)
        costs: Matrix | None = None
        for line, (tpot_s, miss_cost) in enumerate(self._lines):
            chance = np.tanh((1.0 - tpot_s * inverse_s) * steepness)
            chance += 1.0
            there = lately[line] + UNKNOWN if line == newcomer else lately[line]
            chance *= there * each * (0.5 * miss_cost)
            costs = chance if costs is None else costs + chance
        assert costs is not None, "some class is known"
        return costs

    def _line(self, slo: SloClass) -> int:
        key = (slo.tpot_s, slo.miss_cost)
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) == CLASSES_MAX:
                return CLASSES_MAX - 1
            line = self._lines[key] = len(self._lines)
            if line:
                self._outputs = np.concatenate([self._outputs, np.zeros((1, self._outputs.shape[1]))])
        return line
