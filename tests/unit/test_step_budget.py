"""How much of prompts a step may compute beside sequences that were promised their tokens."""

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from sluice.capacity.step_budget import TOKENS_MIN, tokens_within
from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape, chunk_pairs
from sluice.engine.learned_curve import LearnedCurve

CURVES = st.builds(
    StepCurve,
    base_s=st.floats(1e-3, 0.05),
    prefill_token_s=st.floats(1e-6, 1e-3),
    pair_s=st.floats(0.0, 1e-8),
    decode_s=st.floats(0.0, 1e-3),
    context_token_s=st.floats(0.0, 1e-6),
)


def step_s(curve: StepCurve, tokens: int, *, decodes: int, context: int, prefix: int) -> float:
    pairs = chunk_pairs(tokens, context_tokens=prefix)
    return curve.step_s(StepShape(tokens, pairs, 1, decodes, context))


@given(
    curve=CURVES,
    tpot_s=st.floats(1e-3, 10.0),
    batch=st.tuples(st.integers(1, 256), st.integers(0, 500_000)),
    prefix=st.integers(0, 100_000),
    tokens_max=st.integers(1, 8192),
)
def test_the_step_is_as_long_as_the_promise_allows_and_no_longer(
    curve: StepCurve, tpot_s: float, batch: tuple[int, int], prefix: int, tokens_max: int
) -> None:
    decodes, context = batch
    tokens = tokens_within(
        curve, tpot_s, decodes=decodes, context_tokens=context, prefix_tokens=prefix, tokens_max=tokens_max
    )
    assert min(TOKENS_MIN, tokens_max) <= tokens <= tokens_max

    def took(tokens: int) -> float:
        return step_s(curve, tokens, decodes=decodes, context=context, prefix=prefix)

    if tokens > TOKENS_MIN:
        assert took(tokens) <= tpot_s * (1 + 1e-9)
    if tokens < tokens_max:
        assert took(tokens + 2) > tpot_s * (1 - 1e-9)


def test_without_a_promise_the_budget_is_whole() -> None:
    curve = StepCurve(base_s=0.01, prefill_token_s=1e-4, pair_s=1e-9, decode_s=0.0, context_token_s=0.0)
    assert tokens_within(curve, math.inf, decodes=8, context_tokens=9, prefix_tokens=0, tokens_max=777) == 777


def test_what_was_known_before_is_claimed_at_once() -> None:
    known = StepCurve(base_s=0.01, prefill_token_s=1e-4, pair_s=1e-9, decode_s=1e-4, context_token_s=1e-8)
    assert LearnedCurve(known).curve == known


def test_the_curve_is_claimed_once_both_kinds_of_steps_were_seen_and_is_then_near() -> None:
    truth = StepCurve(base_s=0.004, prefill_token_s=5e-5, pair_s=0.0, decode_s=2e-4, context_token_s=0.0)
    draw, learned = random.Random(7), LearnedCurve(None)
    for _ in range(600):
        shape = StepShape(decodes=draw.randint(1, 32), context_tokens=1000)
        learned.note(shape, truth.step_s(shape) * draw.uniform(0.9, 1.1))
    assert learned.curve is None, "it has never seen a prompt"
    for _ in range(600):
        tokens = draw.choice([0, 64, 256, 512])
        shape = StepShape(tokens, chunk_pairs(tokens, context_tokens=0), tokens > 0, draw.randint(1, 32), 1000)
        learned.note(shape, truth.step_s(shape) * draw.uniform(0.9, 1.1))
    assert learned.curve is not None
    for shape in (StepShape(512, chunk_pairs(512, context_tokens=0), 1, 16, 1000), StepShape(0, 0.0, 0, 16, 1000)):
        assert abs(learned.curve.step_s(shape) / truth.step_s(shape) - 1) < 0.15
