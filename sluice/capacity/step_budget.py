"""How much of prompts one step may compute and still give every decoding sequence its next token in time.

Sarathi-Serve (Agrawal et al., OSDI 2024) derives one token budget from the tightest time between tokens it must
keep. Here the budget follows those who decode in the step: long chunks beside patient sequences, short ones beside
pressing ones, so one worker serves both without a setting. Pure.
Next: `engine/scheduler.py`, `simulator/instance.py`.
"""

import math
from typing import Final

from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape

TOKENS_MIN: Final = 64
"""Computed in every step whatever it costs those who decode: prompts never stand still."""


def tokens_within(
    curve: StepCurve, tpot_s: float, *, decodes: int, context_tokens: int, prefix_tokens: int, tokens_max: int
) -> int:
    """Prompt tokens that make a step of these decodes last `tpot_s` at the most, TOKENS_MIN to `tokens_max`.

    `context_tokens` is attended over by the decodes, summed; the prompt has `prefix_tokens` tokens behind it. The
    tokens t solve pair_s / 2 * t^2 + (prefill_token_s + pair_s * prefix) * t = what the decodes leave of `tpot_s`.
    """
    if math.isinf(tpot_s):
        return tokens_max
    left_s = tpot_s - curve.step_s(StepShape(decodes=decodes, context_tokens=context_tokens))
    if left_s <= 0.0:
        return min(TOKENS_MIN, tokens_max)
    linear_s = curve.prefill_token_s + curve.pair_s * prefix_tokens
    root_s = linear_s + math.sqrt(linear_s * linear_s + 2.0 * curve.pair_s * left_s)
    tokens = 2.0 * left_s / root_s if root_s > 0.0 else math.inf
    return tokens_max if tokens >= tokens_max else min(max(int(tokens), TOKENS_MIN), tokens_max)
