"""DistServe's fitted latencies (Apache-2.0; `profiler-a100-80g.*.json`) as step models.

Per model and tensor parallelism, in milliseconds: a prefill takes a + b * sum(l) + c * sum(l^2), a decode
a + b * context + c * batch with other coefficients from a threshold on (DistServe, OSDI 2024, section 4).
Next: `../step_model.py`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sluice.capacity.step_model import StepShape
from sluice.errors import ConfigError

MILLISECOND: Final = 1e-3

Coefficients = tuple[float, float, float]  # seconds; constant, per token of prompt or context, per square or sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseFits:
    """Step times from separate fits of the phases. Satisfies StepModel.

    A step that does both takes both parts and one constant, the larger: weights are read once.
    """

    prefill: Coefficients
    small_decode: Coefficients
    large_decode: Coefficients
    large_from: int  # sequences

    def step_s(self, shape: StepShape) -> float:
        """See StepModel."""
        prefill_s = decode_s = 0.0
        constants = [0.0]
        if shape.prefill_tokens:
            constant, token, square = self.prefill
            # A chunk of l tokens from the start has l * (l + 1) / 2 pairs, so sum(l^2) = 2 * pairs - sum(l).
            squares = 2.0 * shape.prefill_pairs - shape.prefill_tokens
            prefill_s = token * shape.prefill_tokens + square * squares
            constants.append(constant)
        if shape.decodes:
            constant, context, sequence = self.large_decode if shape.decodes >= self.large_from else self.small_decode
            decode_s = context * shape.context_tokens + sequence * shape.decodes
            constants.append(constant)
        return max(0.0, max(constants) + prefill_s + decode_s)


def read_profile(path: Path, *, model: str, tensor_parallel: int) -> PhaseFits:
    """The fits of one model, by its full or last name. Raises ConfigError listing what the file has."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error}); give a profiler-*.json of DistServe") from error
    wanted = _last_name(model)
    found = {name: fits for name, fits in content.items() if _last_name(name) == wanted}
    if not found:
        raise ConfigError(f"{path}: has no model '{model}'; it has {', '.join(content)}")
    (by_degree,) = found.values()
    fits = by_degree.get(str(tensor_parallel))
    if fits is None:
        raise ConfigError(f"{path}: '{model}' was not measured at tensor parallelism {tensor_parallel}, but at "
                          f"{', '.join(by_degree)}")  # fmt: skip
    try:
        return PhaseFits(
            prefill=_seconds(fits["prefill"]),
            small_decode=_seconds(fits["decoding_smallbs"]),
            large_decode=_seconds(fits["decoding_largebs"]),
            large_from=int(fits["decoding_large_small_bs_threshold"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: the fits of '{model}' are not three numbers a phase ({error})") from error


def _seconds(milliseconds: Sequence[float]) -> Coefficients:
    constant, token, third = milliseconds
    return constant * MILLISECOND, token * MILLISECOND, third * MILLISECOND


def _last_name(model: str) -> str:
    return model.rsplit("/", maxsplit=1)[-1].lower()
