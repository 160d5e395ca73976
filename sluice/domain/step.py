"""What a worker tells of its steps: how long one took and what was in it; and the terms it expects.

Plain values that cross the wire. What they mean together: `capacity/step_curve.py`.
"""

from typing import NamedTuple


class StepSample(NamedTuple):
    """One measured step. Fields as in `capacity.step_model.StepShape`, then how long it took."""

    number: int  # of the step, counted from 1 over the worker's life
    prefill_tokens: int
    prefill_pairs: float
    prefills: int
    decodes: int
    context_tokens: int
    seconds: float


class StepTerms(NamedTuple):
    """Seconds a step takes: a constant, then per prefill token, query-key pair, decode and token of context."""

    base_s: float
    prefill_token_s: float
    pair_s: float
    decode_s: float
    context_token_s: float
    error: float  # standard deviation of (measured / predicted - 1)
