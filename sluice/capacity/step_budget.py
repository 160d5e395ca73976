"""How much of prompts one step may compute and still give every decoding sequence its next token in time.

Sarathi-Serve (Agrawal et al., OSDI 2024) derives one token budget from the tightest time between tokens it must
keep. Here the budget follows those who decode in the step: long chunks beside patient sequences and those ahead of
their pace, short ones beside pressing ones, so one worker serves all without a setting. Pure.
Next: `engine/scheduler.py`, `simulator/instance.py`.
"""

import math
from typing import Final

from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape

TOKENS_MIN: Final = 64
"""Computed in every step whatever it costs those who decode: prompts never stand still."""

PACE: Final = 0.95
"""Of the promised time between tokens: what is aimed at, for predictions err."""

STRETCH: Final = 1.5
"""Promised times between tokens that one step may last for a sequence that is ahead of its pace."""


def allowed_s(tpot_s: float, *, ahead_s: float) -> float:
    """How long a step may last for one sequence that would be on its pace with its next token in `ahead_s`."""
    return min(max(ahead_s, PACE * tpot_s), STRETCH * tpot_s)


def tokens_within(
    curve: StepCurve, allowed_s: float, *, decodes: int, context_tokens: int, prefix_tokens: int, tokens_max: int
) -> int:
    """Prompt tokens that make a step of these decodes last `allowed_s` at the most, TOKENS_MIN to `tokens_max`.

    `context_tokens` is attended over by the decodes, summed; the prompt has `prefix_tokens` tokens behind it. The
    tokens t solve pair_s / 2 * t^2 + (prefill_token_s + pair_s * prefix) * t = what the decodes leave of it.
    """
    if math.isinf(allowed_s):
        return tokens_max
    left_s = allowed_s - curve.step_s(StepShape(decodes=decodes, context_tokens=context_tokens))
    if left_s <= 0.0:
        return min(TOKENS_MIN, tokens_max)
    linear_s = curve.prefill_token_s + curve.pair_s * prefix_tokens
    root_s = linear_s + math.sqrt(linear_s * linear_s + 2.0 * curve.pair_s * left_s)
    tokens = 2.0 * left_s / root_s if root_s > 0.0 else math.inf
    return tokens_max if tokens >= tokens_max else min(max(int(tokens), TOKENS_MIN), tokens_max)
