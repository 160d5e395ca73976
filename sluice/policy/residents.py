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

    def harm(self, slo: SloClass, pressing: Matrix, *, steepness: FloatColumn, sequences: FloatColumn) -> Matrix:
        """What it costs the `sequences` at each worker that steps take as long as a later line of `pressing` says
        instead of the first, one line less; one of `slo` comes.

        `pressing` is steepness by seconds: a miss is less likely the less certain a prediction, by `steepness`.
        """
        newcomer = self._line(slo)
        lately, each = self._shares(sequences)
        harm: Matrix | None = None
        for line, (tpot_s, miss_cost) in enumerate(self._lines):
            chance = np.tanh(steepness - pressing * tpot_s)
            there = lately[line] + UNKNOWN if line == newcomer else lately[line]
            more = (chance[1:] - chance[0]) * (there * each * (0.5 * miss_cost))
            harm = more if harm is None else harm + more
        assert harm is not None, "some class is known"
        return harm

    def expected(self, step_s: FloatColumn, *, steepness: FloatColumn, sequences: FloatColumn) -> FloatColumn:
        """The misses as things are, by worker; who was not placed from here is not counted."""
        missed = np.zeros(len(step_s))
        lately, each = self._shares(sequences)
        for line, (tpot_s, miss_cost) in enumerate(self._lines):
            chance = np.tanh((1.0 - tpot_s / (step_s + TINY_S)) * steepness) + 1.0
            missed += chance * lately[line] * each * (0.5 * miss_cost)
        return missed

    def _shares(self, sequences: FloatColumn) -> tuple[Matrix, FloatColumn]:
        """What was placed lately, [classes, rows]; and how many of those who are there stand for one of these."""
        lately = self._outputs[:, : len(sequences)]
        total = lately.sum(axis=0) if len(lately) > 1 else lately[0]
        return lately, sequences / (total + UNKNOWN)

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
