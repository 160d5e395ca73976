"""Remembers whom a policy has placed where lately, by SLO class: what a newcomer could spoil, and for whom.

A table of the fleet counts sequences, not promises; which objectives they have is remembered from the
placements themselves, fading with a time constant, so that no report must carry it and a lost worker is
forgotten. Shares are estimates: other routers place too. Decides nothing, reads no clock. Next: `worth.py`.
"""

import math
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

FADED: Final = 1e-6
"""So little of a placement is left that it stands for nobody."""

TINY_S: Final = 1e-9
"""Free rows predict nothing."""

Matrix = npt.NDArray[np.float64]


class Residents:
    """Placements by worker and class. One owner."""

    def __init__(self) -> None:
        self._lines: dict[tuple[float, float], int] = {}  # (tpot_s, miss_cost) -> line
        self.classes: Matrix = np.zeros((0, 2))  # a line each: tpot_s, miss_cost
        self.outputs: Matrix = np.zeros((1, 0))  # [classes, slots]: sequences placed to decode there
        self._prompt_s: FloatColumn = np.zeros(0)  # [slots]: seconds of prompts placed there
        self._faded_s = 0.0

    def fade(self, *, rows: int, now_s: float) -> None:
        """Bring everything to `now_s`; call before reading."""
        if self._prompt_s.size < rows:
            more = 2 * rows - self._prompt_s.size
            self._prompt_s = np.concatenate([self._prompt_s, np.zeros(more)])
            self.outputs = np.concatenate([self.outputs, np.zeros((len(self.outputs), more))], axis=1)
        if now_s > self._faded_s:
            left = math.exp(-(now_s - self._faded_s) / WINDOW_S)
            self._prompt_s *= left
            self.outputs *= left
            self._faded_s = now_s

    def placed(self, slo: SloClass, *, prefill: int, decode: int, prompt_s: float) -> None:
        """A sequence of this class goes there; its prompt takes `prompt_s` seconds."""
        line = self.line(slo)  # may make a new array of what follows
        self.outputs[line, decode] += 1.0
        self._prompt_s[prefill] += prompt_s

    @property
    def are_of_one_class(self) -> bool:
        """Whether nearly all that was placed lately had the same objectives."""
        if len(self._lines) < 2:
            return True
        lately = self.outputs.sum(axis=1)
        return bool(lately.max() >= ONE_CLASS * lately.sum())

    def prompt_share(self, rows: int) -> FloatColumn:
        """The part of its time each worker spent on prompts lately."""
        shares: FloatColumn = self._prompt_s[:rows] * (1.0 / WINDOW_S)
        return shares

    def expected(self, step_s: FloatColumn, *, steepness: FloatColumn, sequences: FloatColumn) -> FloatColumn:
        """The misses as things are, by worker; who was not placed from here is not counted."""
        missed = np.zeros(len(step_s))
        lately, each = self._lately(sequences)
        for line, (tpot_s, miss_cost) in enumerate(self._lines):
            chance = np.tanh((1.0 - tpot_s / (step_s + TINY_S)) * steepness) + 1.0
            missed += chance * lately[line] * each * (0.5 * miss_cost)
        return missed

    def line(self, slo: SloClass) -> int:
        """Of its class in `classes` and `outputs`; one more when it is new."""
        key = (slo.tpot_s, slo.miss_cost)
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) == CLASSES_MAX:
                return CLASSES_MAX - 1
            line = self._lines[key] = len(self._lines)
            self.classes = np.array(list(self._lines))
            if line:
                self.outputs = np.concatenate([self.outputs, np.zeros((1, self.outputs.shape[1]))])
        return line

    def _lately(self, sequences: FloatColumn) -> tuple[Matrix, FloatColumn]:
        """What was placed lately, [classes, rows]; and how many of those who are there stand for one of these."""
        lately = self.outputs[:, : len(sequences)]
        total = lately.sum(axis=0) if len(lately) > 1 else lately[0]
        return lately, sequences / (total + FADED)
