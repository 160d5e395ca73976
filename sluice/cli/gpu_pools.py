"""`--gpu H100:2p --gpu A100x2:1p+4d`: emulated workers by GPU class, as words on the command line.

The words are the simulator's: CLASS[xN]:COUNTS, N being tensor parallelism and COUNTS 2p (prefill), 4d (decode),
1m (mixed) joined by +; several pools are joined by commas or given one by one. Only reads words;
`local_fleet.py` starts what they say. Next: `simulator/pool_spec.py`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sluice.capacity import catalogue, sources
from sluice.capacity.model_shape import shape_of
from sluice.config.worker import GpuConfig
from sluice.domain.role import Role as DomainRole
from sluice.errors import ConfigError
from sluice.simulator.pool_spec import parse_pools

Role = Literal["encode", "prefill", "decode", "mixed"]
ROLES: Final[Mapping[DomainRole, Role]] = {
    DomainRole.PREFILL: "prefill",
    DomainRole.DECODE: "decode",
    DomainRole.MIXED: "mixed",
}
WORKERS_MAX: Final = 64


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
    pools = parse_pools(",".join(words), is_whole=False, option="--gpu")
    if sum(pool.replicas for pool in pools) > WORKERS_MAX:
        raise ConfigError(f"--gpu: asks for more than {WORKERS_MAX} workers; name fewer")
    for pool in pools:
        role = ROLES.get(pool.role)
        if role is None or pool.is_seeing:
            raise ConfigError("--gpu: emulated workers do not see pictures; use p, d or m")
        gpu = catalogue.gpu_class(pool.gpu, prices)
        degree = pool.tensor_parallel
        settings = GpuConfig(
            gpu_class=gpu.name,
            tensor_parallel=degree,
            price_per_h=gpu.price_per_h,
            profile=by_class.get(gpu.name, ""),
        )
        sources.step_model(gpu, shape_of(shape), tensor_parallel=degree, profile=settings.profile)
        stem = f"{gpu.name.lower()}{f'x{degree}' if degree > 1 else ''}-{role}"
        for _ in range(pool.replicas):
            workers.append(EmulatedWorker(name=f"{stem}-{numbers[stem]}", role=role, gpu=settings))
            numbers[stem] += 1
    return tuple(workers)


def _profiles(words: Sequence[str]) -> dict[str, str]:
    """CLASS=PATH words as paths by class."""
    by_class = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not path:
            raise ConfigError(f"--profile: '{word}' is not understood; write CLASS=PATH")
        by_class[catalogue.gpu_class(name).name] = path
    return by_class
