"""The roofline prior orders GPUs rightly, fits memory honestly, and a linear curve can be fitted to any model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.capacity import catalogue
from sluice.capacity.curve_fit import fit, fit_model, nonnegative_least_squares, usual_steps
from sluice.capacity.model_shape import shape_of
from sluice.capacity.roofline import Roofline, degrees, kv_tokens
from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape, chunk_pairs
from sluice.errors import ConfigError

SMALL = shape_of("Llama-3.1-8B")
LARGE = shape_of("Llama-3.1-70B")
PROMPT = StepShape(prefill_tokens=2048, prefill_pairs=chunk_pairs(2048, context_tokens=0), prefills=1)
BATCH = StepShape(decodes=64, context_tokens=64 * 1000)

positive = st.floats(1e-9, 1e-2)


def roofline(name: str, *, degree: int = 1) -> Roofline:
    return Roofline(gpu=catalogue.gpu_class(name), shape=SMALL, tensor_parallel=degree)


def test_a_prompt_is_bound_by_flops_and_a_decode_by_bandwidth() -> None:
    h100, h200 = roofline("H100"), roofline("H200")
    assert h100.step_s(PROMPT) == pytest.approx(h200.step_s(PROMPT))
    assert h100.step_s(BATCH) > 1.2 * h200.step_s(BATCH)


def test_more_gpus_are_faster_but_not_in_proportion() -> None:
    one, two = roofline("A100").step_s(PROMPT), roofline("A100", degree=2).step_s(PROMPT)
    assert one / 2 < two < one


@given(st.integers(0, 4096), st.integers(0, 256), st.integers(0, 4096), st.integers(0, 64))
def test_more_work_never_takes_less_time(tokens: int, decodes: int, context: int, more: int) -> None:
    model = roofline("L4")
    step = StepShape(tokens, chunk_pairs(tokens, context_tokens=0), int(tokens > 0), decodes, decodes * context)
    larger = step._replace(decodes=decodes + more, context_tokens=step.context_tokens + more * context)
    assert model.step_s(larger) >= model.step_s(step)


def test_an_empty_step_takes_no_time() -> None:
    assert roofline("H100").step_s(StepShape()) == 0


def test_kv_room_is_what_the_weights_leave() -> None:
    a100 = catalogue.gpu_class("A100")
    assert kv_tokens(a100, SMALL) == pytest.approx((72e9 - 2**31 - 16.06e9) / 131_072, rel=0.01)
    assert kv_tokens(a100, LARGE) == 0
    assert degrees(a100, LARGE) == [4, 8]
    assert degrees(a100, SMALL) == [1, 2, 4, 8]


def test_a_model_too_large_for_a_class_is_refused_with_its_size() -> None:
    with pytest.raises(ConfigError, match=r"141 GB of Llama-3\.1-70B"):
        degrees(catalogue.gpu_class("L4"), LARGE, tensor_parallel_max=4)


@settings(max_examples=30, deadline=None)
@given(positive, positive, positive, positive, positive)
def test_a_linear_model_is_found_exactly(base: float, token: float, pair: float, decode: float, context: float) -> None:
    true = StepCurve(
        base_s=base, prefill_token_s=token, pair_s=pair * 1e-4, decode_s=decode, context_token_s=context * 1e-3
    )
    found = fit_model(true)
    for step in usual_steps():
        assert found.step_s(step) == pytest.approx(true.step_s(step), rel=1e-3)
    assert found.error < 1e-3


def test_no_coefficient_is_ever_negative() -> None:
    falling = [(StepShape(decodes=count, context_tokens=count), 1.0 / count) for count in (1, 2, 4, 8)]
    curve = fit(falling)
    assert min(curve.base_s, curve.decode_s, curve.context_token_s, curve.pair_s, curve.prefill_token_s) >= 0
    assert curve.error > 0.1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_least_squares_meets_the_conditions_of_an_optimum(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows, values = generator.normal(size=(12, 4)), generator.normal(size=12)
    found = nonnegative_least_squares(rows, values)
    slope = rows.T @ (values - rows @ found)
    assert (found >= 0).all()
    assert (slope <= 1e-6).all()  # no coefficient wants to grow
    assert np.abs(slope[found > 0]).max(initial=0.0) <= 1e-6  # and none that is used wants to change


def test_a_fit_needs_steps_that_took_time() -> None:
    with pytest.raises(ConfigError, match="samples"):
        fit([])
    with pytest.raises(ConfigError, match="took no time"):
        fit([(BATCH, 0.0)])
