"""`--gpu H100:2p --gpu A100x2:4d`: emulated workers by GPU class, as words on the command line.

CLASS[xN]:COUNTS; N is tensor parallelism, COUNTS are 2p (prefill), 4d (decode), 1m (mixed), joined by commas.
Only reads words; `local_fleet.py` starts what they say.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sluice.capacity import catalogue, sources
from sluice.capacity.model_shape import shape_of
from sluice.config.worker import GpuConfig
from sluice.errors import ConfigError

Role = Literal["prefill", "decode", "mixed"]
ROLES: Final[Mapping[str, Role]] = {"p": "prefill", "d": "decode", "m": "mixed"}
WORKERS_MAX: Final = 64
SYNTAX: Final = "write CLASS:COUNTS, for example H100:2p, A100x2:1p,3d or L4:4m"

_POOL: Final = re.compile(r"(?P<name>[\w. -]+?)(?:x(?P<degree>\d{1,2}))?:(?P<counts>.+)")
_COUNT: Final = re.compile(r"(\d{1,3})([pdm])")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedWorker:
    """One worker to start."""

    name: str
    role: Role
    gpu: GpuConfig


def emulated_workers(
    words: Sequence[str], *, shape: str, prices: Mapping[str, float], profiles: Sequence[str] = ()
) -> tuple[EmulatedWorker, ...]:
    """The workers that `--gpu` words ask for, to serve a model of `shape`. Raises ConfigError naming the word."""
    by_class = _profiles(profiles)
    workers: list[EmulatedWorker] = []
    numbers: Counter[str] = Counter()
    for word in words:
        pool = _POOL.fullmatch(word.strip())
        if pool is None:
            raise ConfigError(f"--gpu: '{word}' is not understood; {SYNTAX}")
        gpu = catalogue.gpu_class(pool["name"], prices)
        degree = int(pool["degree"] or 1)
        if degree < 1:
            raise ConfigError(f"--gpu: '{word}' asks for replicas of no GPU; {SYNTAX}")
        settings = GpuConfig(
            gpu_class=gpu.name,
            tensor_parallel=degree,
            price_per_h=gpu.price_per_h,
            profile=by_class.get(gpu.name, ""),
        )
        sources.step_model(gpu, shape_of(shape), tensor_parallel=degree, profile=settings.profile)
        for count, role in _counts(word, pool["counts"]):
            for _ in range(count):
                stem = f"{gpu.name.lower()}{f'x{degree}' if degree > 1 else ''}-{role}"
                workers.append(EmulatedWorker(name=f"{stem}-{numbers[stem]}", role=role, gpu=settings))
                numbers[stem] += 1
                if len(workers) > WORKERS_MAX:
                    raise ConfigError(f"--gpu: asks for more than {WORKERS_MAX} workers; name fewer")
    if not workers:
        raise ConfigError(f"--gpu: asks for no worker; {SYNTAX}")
    return tuple(workers)


def _counts(word: str, text: str) -> list[tuple[int, Role]]:
    counts = []
    for part in text.split(","):
        found = _COUNT.fullmatch(part.strip())
        if found is None:
            raise ConfigError(f"--gpu: '{part}' in '{word}' is no count of p, d or m; {SYNTAX}")
        counts.append((int(found[1]), ROLES[found[2]]))
    return counts


def _profiles(words: Sequence[str]) -> dict[str, str]:
    """CLASS=PATH words as paths by class."""
    by_class = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not path:
            raise ConfigError(f"--profile: '{word}' is not understood; write CLASS=PATH")
        by_class[catalogue.gpu_class(name).name] = path
    return by_class
