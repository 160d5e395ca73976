"""Decides whether a ModelService can be run as it stands, and makes of it what the builders take.

Everything is checked here that the API server may not have checked: old servers know no rules, and
none of them knows the other objects. A refusal names the field and the remedy. Pure. Next: `builders/`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError

from sluice.capacity import catalogue
from sluice.capacity.model_shape import shape_of
from sluice.errors import ConfigError, RefusedSpecError
from sluice.operator import names
from sluice.operator.manifest import LiveObject, digest
from sluice.operator.resources.gpu_class import GPUClassSpec
from sluice.operator.resources.model_service import ModelServiceSpec
from sluice.operator.resources.part import Part
from sluice.operator.resources.pool import PoolSpec, RoleName

P = TypeVar("P", bound=Part)

MIB_PER_GIB: Final = 1024
HOLD_S: Final = 300.0
"""Long enough for a node to come and a model to load."""

SERVICE_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
POOL_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class GPUClass:
    """A GPUClass by name."""

    name: str
    spec: GPUClassSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedPool:
    """A pool with everything decided but its size."""

    name: str
    role: RoleName
    spec: PoolSpec
    classes: tuple[GPUClass, ...]  # in order of preference; none: CPUs

    @property
    def price_per_hour(self) -> float:
        """Dollars one worker costs per hour, on the class it prefers."""
        return self.classes[0].spec.price_per_hour * self.spec.tensor_parallel if self.classes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedService:
    """A ModelService that can be run."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: ModelServiceSpec
    pools: tuple[AcceptedPool, ...]

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        return self.spec.model.name or self.name

    @property
    def model_mark(self) -> str:
        """A hash of the model source; it may not change while the service exists."""
        # What is not given does not count: a field that a later version adds must not look like another model.
        return digest(self.spec.model.model_dump(mode="json", exclude={"name"}, exclude_defaults=True), chars=8)

    @property
    def may_sleep(self) -> bool:
        """Whether the platform itself may leave a pool without workers, and must wake it."""
        return self.spec.scaling is not None and any(pool.spec.replicas.min == 0 for pool in self.pools)

    @property
    def hold_s(self) -> float:
        """How long routers hold requests while no worker serves."""
        own = self.spec.routers.hold_s
        return own if own is not None else HOLD_S * self.may_sleep

    def emulated_gpu(self, pool: AcceptedPool) -> str:
        """The GPU whose time the pool's steps take; empty if its model is a real one."""
        emulated = self.spec.model.emulated
        return "" if emulated is None else emulated.gpu or (pool.classes[0].name if pool.classes else "")


def accept(body: LiveObject, classes: Mapping[str, GPUClassSpec]) -> AcceptedService:
    """Check a ModelService against the classes there are. Raises RefusedSpecError with every problem found."""
    metadata = body["metadata"]
    name: str = metadata["name"]
    if not SERVICE_NAME.fullmatch(name) or len(name) > names.SERVICE_NAME_CHARS_MAX:
        limit = names.SERVICE_NAME_CHARS_MAX
        raise RefusedSpecError(
            [f"metadata.name: '{name}' cannot name its objects; use at most {limit} of a-z, 0-9 and -, a letter first"]
        )
    spec = parse(ModelServiceSpec, body.get("spec") or {})
    problems = [f"{field}: {message}" for field, message in spec.broken_rules("spec")]
    pools: list[AcceptedPool] = []
    for pool_name, pool in spec.pools.items():
        role = pool.role_as(pool_name)
        mistakes = _pool_mistakes(pool_name, pool, classes)
        problems += [f"spec.pools.{pool_name}{mistake}" for mistake in mistakes]
        if role is not None and not mistakes:
            chosen = tuple(GPUClass(name=one, spec=classes[one]) for one in _class_names(pool, classes))
            pools.append(AcceptedPool(name=pool_name, role=role, spec=pool, classes=chosen))
    if problems:
        raise RefusedSpecError(problems)
    service = AcceptedService(
        namespace=metadata["namespace"],
        name=name,
        uid=metadata["uid"],
        generation=metadata.get("generation", 1),
        spec=spec,
        pools=tuple(sorted(pools, key=lambda pool: pool.name)),
    )
    if mistakes := _emulation_mistakes(service):
        raise RefusedSpecError(mistakes)
    earlier = (body.get("status") or {}).get("model", "")
    if earlier and earlier != service.model_mark:
        remedy = "make another ModelService and delete this one when clients have moved"
        raise RefusedSpecError([f"spec.model: cannot be changed; {remedy}"])
    return service


def parse(part: type[P], values: object) -> P:
    """A spec as its model. Raises RefusedSpecError naming each bad field as the user wrote it."""
    try:
        return part.model_validate(values)
    except ValidationError as error:
        raise RefusedSpecError([_problem(one["loc"], one["type"], one["msg"]) for one in error.errors()]) from error


def gpu_classes(objects: Sequence[LiveObject]) -> tuple[dict[str, GPUClassSpec], dict[str, str]]:
    """The usable classes by name, and what is wrong with the others."""
    usable: dict[str, GPUClassSpec] = {}
    broken: dict[str, str] = {}
    for body in objects:
        name = body["metadata"]["name"]
        try:
            usable[name] = parse(GPUClassSpec, body.get("spec") or {})
        except RefusedSpecError as error:
            broken[name] = str(error)
    return usable, broken


def _problem(loc: Sequence[str | int], kind: str, message: str) -> str:
    field = "spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    if kind == "extra_forbidden":
        return f"{field}: is not a known field; remove it"
    return f"{field}: {message[0].lower()}{message[1:]}"


def _emulation_mistakes(service: AcceptedService) -> list[str]:
    """What the catalogue does not know of an emulated model."""
    emulated = service.spec.model.emulated
    if emulated is None:
        return []
    mistakes = []
    try:
        shape_of(emulated.shape)
    except ConfigError as error:
        mistakes.append(f"spec.model.emulated.shape: {error}")
    mistakes += [
        f"spec.pools.{pool.name}: an emulated model sees no images; remove the pool, or `spec.model.emulated`"
        for pool in service.pools
        if pool.role == "encode"
    ]
    mistakes += [
        f"spec.pools.{pool.name}.encodes: an emulated model sees no images; remove it, or `spec.model.emulated`"
        for pool in service.pools
        if pool.spec.encodes
    ]
    for pool in service.pools:
        try:
            catalogue.gpu_class(service.emulated_gpu(pool))
        except ConfigError as error:
            mistakes.append(f"spec.model.emulated.gpu: for pool {pool.name}: {error}")
    return mistakes


def _class_names(pool: PoolSpec, classes: Mapping[str, GPUClassSpec]) -> list[str]:
    if pool.gpu_classes is not None:
        return list(pool.gpu_classes)
    return sorted(classes, key=lambda name: (classes[name].price_per_hour, name))


def _pool_mistakes(name: str, pool: PoolSpec, classes: Mapping[str, GPUClassSpec]) -> list[str]:
    """What only the operator can know to be wrong; each begins where the pool's path ends."""
    mistakes = []
    if not POOL_NAME.fullmatch(name) or len(name) > names.POOL_NAME_CHARS_MAX:
        mistakes.append(f": cannot name a pool; use at most {names.POOL_NAME_CHARS_MAX} of a-z, 0-9 and -")
    if name == names.COMPONENT_ROUTER or name.startswith("router"):
        mistakes.append(": is the routers' name; call the pool otherwise")
    if pool.encodes and pool.role_as(name) == "encode":
        mistakes.append(".encodes: workers of the role encode do nothing else; remove it")
    chosen = _class_names(pool, classes)
    unknown = [one for one in chosen if one not in classes]
    if unknown:
        known = ", ".join(sorted(classes)) or "none"
        mistakes.append(
            f".gpuClasses: there is no GPUClass '{unknown[0]}' (there are: {known}); create it, or name another"
        )
    known_classes = [one for one in chosen if one in classes]
    small = min(known_classes, key=lambda one: classes[one].memory_gib, default=None)
    if small is not None and (pool.engine.kv_memory_mib or 0) > classes[small].memory_gib * MIB_PER_GIB:
        held = f"GPUClass '{small}' holds {classes[small].memory_gib:g} GiB"
        mistakes.append(f".engine.kvMemoryMib: {held}; give KV less, beside the weights, or name larger classes")
    resources = {classes[one].resource for one in known_classes}
    if len(resources) > 1:
        kinds = ", ".join(sorted(resources))
        mistakes.append(f".gpuClasses: mixes {kinds}, and a pod can ask for one; make a pool for each")
    return mistakes
