"""A few recent measured steps for the next heartbeat: of prompts and of pure decodes, so that both are heard.

Keeps the newest of each kind; a busy decode worker's rare prefills are not pushed out. Next: `standing.py`.
"""

from collections import deque
from typing import Final

from sluice.capacity.step_model import StepShape
from sluice.domain.step import StepSample

KEPT_PER_KIND: Final = 4


class StepSamples:
    """The latest steps of one worker."""

    def __init__(self) -> None:
        self._number = 0
        self._prefill: deque[StepSample] = deque(maxlen=KEPT_PER_KIND)
        self._decode: deque[StepSample] = deque(maxlen=KEPT_PER_KIND)

    def note(self, shape: StepShape, seconds: float) -> None:
        """A step of this shape took `seconds`; an empty one says nothing."""
        if not (shape.prefill_tokens or shape.decodes) or seconds <= 0.0:
            return
        self._number += 1
        kept = self._prefill if shape.prefill_tokens else self._decode
        kept.append(StepSample(self._number, *shape, seconds))

    def latest(self) -> tuple[StepSample, ...]:
        """The newest of both kinds, in order of their numbers."""
        return tuple(sorted((*self._prefill, *self._decode)))
