"""The linear step model: five coefficients and how far measurements stray from them.

The form every published predictor shares (DistServe, OSDI 2024; Llumnix v1; xLLM): a constant for
reading the weights, a term per prefill token, per query-key pair, per decode, per token of context.
Pure. Next: `step_model.py` for the question it answers.
"""

from dataclasses import dataclass
from typing import NamedTuple

from sluice.capacity.step_model import StepShape


class Estimate(NamedTuple):
    """A predicted duration with its spread."""

    mean_s: float
    sd_s: float

    def quantile_s(self, z: float) -> float:
        """The value `z` standard deviations above the mean, never negative."""
        return max(0.0, self.mean_s + z * self.sd_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCurve:
    """Seconds per step as a sum of terms; every coefficient is >= 0."""

    base_s: float
    prefill_token_s: float
    pair_s: float
    decode_s: float
    context_token_s: float
    error: float = 0.1  # standard deviation of (measured / predicted - 1)
    samples: int = 0  # measurements behind it; 0: a prior

    def step_s(self, shape: StepShape) -> float:
        """See StepModel."""
        if shape.prefill_tokens == 0 and shape.decodes == 0:
            return 0.0
        return (
            self.base_s
            + self.prefill_token_s * shape.prefill_tokens
            + self.pair_s * shape.prefill_pairs
            + self.decode_s * shape.decodes
            + self.context_token_s * shape.context_tokens
        )

    def estimate(self, shape: StepShape) -> Estimate:
        """The step's predicted duration and spread."""
        mean_s = self.step_s(shape)
        return Estimate(mean_s, mean_s * self.error)
