"""How long this engine's steps take, learned from the steps themselves: one in a few is looked at.

Until enough of both kinds were seen nothing is claimed, unless somebody knew. Decides nothing, reads no clock.
Next: `capacity/curve_tracker.py`, which fits; `scheduler.py`, which asks.
"""

from typing import Final

from sluice.capacity.curve_tracker import CurveTracker
from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape

PRIOR: Final = StepCurve(base_s=1e-3, prefill_token_s=3e-5, pair_s=1e-9, decode_s=1e-4, context_token_s=1e-8, error=0.5)
"""Of some GPU or small model: it only has to be of the right order, and fades."""

LOOK_EVERY: Final = 16
"""Steps per look: a fit costs a third of a millisecond."""

PROMPTS_MIN: Final = 8
STEPS_MIN: Final = 16
"""Looks, those at prompts among them, from which on the curve is believed."""


class LearnedCurve:
    """The curve of one engine. One owner."""

    def __init__(self, known: StepCurve | None) -> None:
        """`known` before any step has run: what a profile or a datasheet says."""
        self._tracker = CurveTracker(known or PRIOR)
        self._prompts = 0
        self._steps = 0
        self.curve = known  # None: not known yet

    def note(self, shape: StepShape, seconds: float) -> None:
        """A step of this shape took `seconds`."""
        self._steps += 1
        is_rare = shape.prefill_tokens > 0 and self._prompts < PROMPTS_MIN
        if (self._steps % LOOK_EVERY and not is_rare) or not self._tracker.note(shape, seconds):
            return
        self._prompts += shape.prefill_tokens > 0
        if self._prompts >= PROMPTS_MIN and self._tracker.samples >= STEPS_MIN:
            self.curve = self._tracker.curve()
