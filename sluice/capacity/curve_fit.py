"""The linear step curve nearest to another step model, or to measured steps.

Least squares on relative error with coefficients that are not negative, so that no prediction ever
falls with more work. The spread of what is left becomes the curve's error. Pure.
Next: `step_curve.py`.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepModel, StepShape, chunk_pairs
from sluice.errors import ConfigError

Sample = tuple[StepShape, float]  # what was in a step, and its seconds
TERMS: Final = 5
SAMPLES_MAX: Final = 100_000
_PASSES_MAX: Final = 30

_CHUNKS: Final = (0, 16, 64, 256, 512, 1024, 2048, 4096, 8192)
_PASTS: Final = (0, 2048)
_BATCHES: Final = (0, 1, 4, 16, 64, 128, 256)
_CONTEXTS: Final = (128, 512, 2048, 4096)


def usual_steps(*, step_tokens_max: int = 8192, batch_sequences_max: int = 256) -> list[StepShape]:
    """Shapes that steps have: every mix of chunks, batches and contexts within the limits."""
    return [
        StepShape(
            prefill_tokens=chunk,
            prefill_pairs=chunk_pairs(chunk, context_tokens=past),
            prefills=int(chunk > 0),
            decodes=batch,
            context_tokens=batch * context,
        )
        for chunk in _CHUNKS
        if chunk <= step_tokens_max
        for past in (_PASTS if chunk else (0,))
        for batch in _BATCHES
        if batch <= batch_sequences_max and (batch or chunk)
        for context in (_CONTEXTS if batch else (0,))
    ]


def fit_model(model: StepModel, shapes: Iterable[StepShape] | None = None) -> StepCurve:
    """The curve nearest to `model` over `shapes` (the usual ones if none are given)."""
    return fit([(shape, model.step_s(shape)) for shape in (usual_steps() if shapes is None else shapes)])


def fit(samples: Sequence[Sample]) -> StepCurve:
    """The curve nearest to what was measured. Raises ConfigError for no samples, too many, or one without time."""
    if not 0 < len(samples) <= SAMPLES_MAX:
        raise ConfigError(f"samples: {len(samples)} steps; give 1 to {SAMPLES_MAX}")
    seconds = np.array([each for _, each in samples])
    if not (seconds > 0).all():
        raise ConfigError("samples: a step took no time; give steps that did something")
    rows = np.array([_terms(shape) for shape, _ in samples]) / seconds[:, None]
    found = nonnegative_least_squares(rows, np.ones(len(samples)))
    left = 1 / np.maximum(rows @ found, 1e-12) - 1
    base, token, pair, decode, context = (float(each) for each in found)
    return StepCurve(
        base_s=base,
        prefill_token_s=token,
        pair_s=pair,
        decode_s=decode,
        context_token_s=context,
        error=float(np.sqrt(np.mean(left**2))),
        samples=len(samples),
    )


def nonnegative_least_squares(
    rows: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The x >= 0 that minimises |rows x - values| (active set of Lawson and Hanson, 1974, chapter 23)."""
    scale = np.linalg.norm(rows, axis=0)
    scale[scale == 0] = 1.0
    scaled = rows / scale
    found, passive = np.zeros(rows.shape[1]), np.zeros(rows.shape[1], dtype=bool)
    for _ in range(_PASSES_MAX):
        slope = scaled.T @ (values - scaled @ found)
        free = np.where(passive, -np.inf, slope)
        if free.max() <= 1e-9 * len(values):
            break
        passive[int(free.argmax())] = True
        while True:
            trial = np.zeros_like(found)
            trial[passive] = np.linalg.lstsq(scaled[:, passive], values, rcond=None)[0]
            low = passive & (trial <= 0)
            if not low.any():
                break
            step = float(np.min(found[low] / np.maximum(found[low] - trial[low], 1e-300)))
            found = found + step * (trial - found)
            passive &= found > 1e-12
        found = trial
    return np.asarray(found / scale, dtype=np.float64)


def _terms(shape: StepShape) -> tuple[float, ...]:
    return (1.0, shape.prefill_tokens, shape.prefill_pairs, shape.decodes, shape.context_tokens)
