"""The JSON file of a measured profile: which replica, the samples, and the curve fitted to them.

Written by `sluice profile`, read wherever a step model is asked for. Next: `curve_fit.py`.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape
from sluice.errors import ConfigError

FORMAT: Final = "sluice profile 1"
SAMPLES_MAX: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One replica as it was measured."""

    gpu_class: str
    model: str
    tensor_parallel: int
    curve: StepCurve
    samples: tuple[tuple[StepShape, float], ...] = ()  # what was in a step, and its seconds


def write(path: Path, profile: Profile) -> None:
    """Store `profile` at `path`, over what was there. Raises ConfigError where that cannot be."""
    try:
        path.write_text(profile_text(profile), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def profile_text(profile: Profile) -> str:
    """The file's content."""
    content = {
        "format": FORMAT,
        "gpu_class": profile.gpu_class,
        "model": profile.model,
        "tensor_parallel": profile.tensor_parallel,
        "curve": asdict(profile.curve),
        "columns": [*StepShape._fields, "seconds"],
        "samples": [[*shape, seconds] for shape, seconds in profile.samples],
    }
    return json.dumps(content, indent=1) + "\n"


def read(path: Path) -> Profile:
    """The profile stored at `path`. Raises ConfigError naming what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a file that `sluice profile` wrote") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"{path}: is not a profile (its `format` is not '{FORMAT}')")
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: is broken ({type(error).__name__}: {error}); measure again") from error


def _parse(content: dict[str, Any]) -> Profile:
    rows = content["samples"]
    if len(rows) > SAMPLES_MAX:
        raise ValueError(f"more than {SAMPLES_MAX} samples")
    curve = StepCurve(**content["curve"])
    terms = (curve.base_s, curve.prefill_token_s, curve.pair_s, curve.decode_s, curve.context_token_s, curve.error)
    if not all(math.isfinite(term) and term >= 0.0 for term in terms):
        raise ValueError("curve: a term is negative or not a number")
    return Profile(
        gpu_class=str(content["gpu_class"]),
        model=str(content["model"]),
        tensor_parallel=int(content["tensor_parallel"]),
        curve=curve,
        samples=tuple((_shape(row[:-1]), float(row[-1])) for row in rows),
    )


def _shape(row: list[float]) -> StepShape:
    tokens, pairs, chunks, decodes, context = row
    return StepShape(int(tokens), float(pairs), int(chunks), int(decodes), int(context))
