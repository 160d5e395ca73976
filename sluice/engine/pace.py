"""How an emulated step takes its time: by waiting for what is left of it, or not at all.

A step that follows at once on another is due that step's length after that one was due, so waking late
does not add up, and what the emulation itself costs is within. Decides no durations: a StepModel does.
Next: `emulated_runner.py`.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from sluice.capacity.step_model import StepModel, StepShape

log = logging.getLogger(__name__)

CATCH_UP_S_MAX: Final = 0.05  # further behind than this, the emulated GPU is late for good
LATE_SHARE_TOLD: Final = 0.02  # of the time emulated; more is worth a warning
TELL_EVERY_S: Final = 60.0


class Pace(Protocol):
    """Makes an emulated step last."""

    def begin(self, shape: StepShape) -> None:
        """A step of this shape starts."""
        ...

    def reach(self, share: float) -> None:
        """Return once `share` (0 to 1) of the step's time has passed."""
        ...

    def rest(self) -> None:
        """No step follows until there is work again."""
        ...


class NoPace:
    """Steps take no time here: somebody else gives them some."""

    def begin(self, shape: StepShape) -> None:
        """Nothing to do."""

    def reach(self, share: float) -> None:
        """Return at once."""

    def rest(self) -> None:
        """Nothing to do."""


class RealPace:
    """Steps take as long as `model` says, on the machine's clock. Also a Clock: that of the emulated GPU."""

    def __init__(
        self,
        model: StepModel,
        *,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._model = model
        self._now_s = now_s
        self._sleep = sleep
        self._start_s = 0.0
        self._step_s = 0.0
        self._is_resting = True
        self._emulated_s = 0.0
        self._late_s = 0.0  # lost for good since the last telling
        self._told_s = now_s()

    def now_s(self) -> float:
        """Emulated time: in a run of steps, when the latest one is due. As a Clock it times steps exactly."""
        return self._now_s() if self._is_resting else self._start_s + self._step_s

    def begin(self, shape: StepShape) -> None:
        now_s = self._now_s()
        due_s = self._start_s + self._step_s
        if self._is_resting:
            self._start_s = now_s
        elif now_s - due_s > CATCH_UP_S_MAX:
            self._late_s += now_s - due_s - CATCH_UP_S_MAX
            self._start_s = now_s - CATCH_UP_S_MAX
        else:
            self._start_s = due_s
        self._is_resting = False
        self._step_s = self._model.step_s(shape)
        self._emulated_s += self._step_s
        if now_s - self._told_s > TELL_EVERY_S:
            self._tell(now_s)

    def reach(self, share: float) -> None:
        left_s = self._start_s + self._step_s * share - self._now_s()
        if left_s > 0.0:
            self._sleep(left_s)

    def rest(self) -> None:
        self._is_resting = True

    def _tell(self, now_s: float) -> None:
        if self._late_s > LATE_SHARE_TOLD * self._emulated_s:
            log.warning(
                "this machine is too slow for the emulated GPU: %.1f s late in %.1f s of steps; use fewer workers",
                self._late_s,
                self._emulated_s,
            )
        self._told_s, self._late_s, self._emulated_s = now_s, 0.0, 0.0
