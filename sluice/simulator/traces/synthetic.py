"""Requests made up by knobs, those of Dynamo's load generators among them:

    synthetic:isl=1024,osl=256,cv=2,prefix=0.5,groups=20,spread=0.5,burst=3,images=0

isl, osl: mean prompt and output tokens; spread: standard deviation of both over the mean (log-normal);
cv: of the gaps between arrivals; prefix: share of a prompt that its group's prompts have in common;
groups: how many such prefixes, equally popular; burst: rate during every other minute over the other's;
images: mean images per request, 576 tokens each within the prompt. Next: `arrivals.py`.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sluice.errors import ConfigError
from sluice.simulator.traces import arrivals
from sluice.simulator.workload import Workload

REQUESTS: Final = 1000  # unless limited otherwise
REQUESTS_ASKED_MAX: Final = 2_000_000  # more was not asked for by a person
UNIT_TOKENS: Final = 16  # of the prefix hashes made up here
BURST_S: Final = 60.0
IMAGE_TOKENS: Final = 576

_DEFAULTS: Final = {
    "isl": 1024.0,
    "osl": 256.0,
    "spread": 0.5,
    "cv": 1.0,
    "prefix": 0.0,
    "groups": 10.0,
    "burst": 1.0,
    "images": 0.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Knobs:
    isl: float
    osl: float
    spread: float
    cv: float
    prefix: float
    groups: float
    burst: float
    images: float


def generate(text: str, *, rate: float, seed: int, requests_max: int) -> Workload:
    """The requests `text` describes. Raises ConfigError naming the knob that is wrong."""
    knobs = _parse(text)
    count = min(REQUESTS if requests_max > REQUESTS_ASKED_MAX else requests_max, requests_max)
    generator = np.random.default_rng(seed)
    arrival_s = arrivals.gamma(count, rate=rate, cv=knobs.cv, generator=generator)
    prompts = _lengths(knobs.isl, knobs.spread, count, generator)
    images = generator.poisson(knobs.images, count) if knobs.images else np.zeros(0, dtype=np.int64)
    image_tokens = images * IMAGE_TOKENS
    if len(images):
        prompts = prompts + image_tokens
    return Workload(
        name="synthetic",
        arrival_s=_bursty(arrival_s, knobs.burst),
        prompt_tokens=prompts,
        output_tokens=_lengths(knobs.osl, knobs.spread, count, generator),
        unit_tokens=UNIT_TOKENS,
        hash_ids=_prefixes(prompts, knobs, generator) if knobs.prefix else (),
        images=images,
        image_tokens=image_tokens,
    )


def _parse(text: str) -> _Knobs:
    values = dict(_DEFAULTS)
    _, _, body = text.partition(":")
    for part in filter(None, body.split(",")):
        name, _, number = part.partition("=")
        try:
            values[name.strip()] = float(number)
        except ValueError as error:
            raise ConfigError(f"--trace: '{part}' has no number; write isl=1024") from error
        if name.strip() not in _DEFAULTS:
            raise ConfigError(f"--trace: synthetic has no knob '{name}'; it has {', '.join(_DEFAULTS)}")
    knobs = _Knobs(**values)
    if min(knobs.isl, knobs.osl, knobs.groups, knobs.burst) < 1 or min(knobs.spread, knobs.cv, knobs.images) < 0:
        raise ConfigError("--trace: isl, osl, groups and burst are 1 or more; spread, cv and images 0 or more")
    if not 0.0 <= knobs.prefix <= 1.0:
        raise ConfigError(f"--trace: prefix is {knobs.prefix}; use a share from 0 to 1")
    return knobs


def _lengths(mean: float, spread: float, count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Log-normal with this mean and standard deviation over mean."""
    variance = np.log1p(spread * spread)
    drawn = generator.lognormal(np.log(mean) - variance / 2, np.sqrt(variance), count)
    return np.maximum(1, np.rint(drawn)).astype(np.int64)


def _bursty(arrival_s: npt.NDArray[np.float64], burst: float) -> npt.NDArray[np.float64]:
    """Every other minute has `burst` times the rate of the minutes between; the mean rate stays."""
    if burst == 1.0:
        return arrival_s
    fast = 2 * burst / (1 + burst)  # over the mean rate
    pair_s, phase_s = np.divmod(arrival_s, 2 * BURST_S)
    in_fast = phase_s < fast * BURST_S
    slow_s = BURST_S + (phase_s - fast * BURST_S) / (2 - fast)
    return np.asarray(pair_s * 2 * BURST_S + np.where(in_fast, phase_s / fast, slow_s))


def _prefixes(prompts: npt.NDArray[np.int64], knobs: _Knobs, generator: np.random.Generator) -> list[tuple[int, ...]]:
    """Hash ids per request: those of its group's prefix, then ids of its own."""
    group = generator.integers(0, int(knobs.groups), len(prompts))
    longest = int(prompts.max()) // UNIT_TOKENS + 1
    own = int(knobs.groups) * longest
    ids: list[tuple[int, ...]] = []
    for number, tokens in enumerate(prompts):
        shared = int(tokens * knobs.prefix) // UNIT_TOKENS
        full = int(tokens) // UNIT_TOKENS
        first = int(group[number]) * longest
        ids.append((*range(first, first + shared), *range(own, own + full - shared)))
        own += full - shared
    return ids
