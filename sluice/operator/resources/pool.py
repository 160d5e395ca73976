"""One pool of a ModelService: which work, on which GPUs, how many workers, how big.

Never decides how many run now: `WorkerPool` and `pool_plan.py` do. Next: `model_service.py`.
"""

from typing import Annotated, ClassVar, Final, Literal, get_args

from pydantic import Field

from sluice.domain.role import Role
from sluice.operator.resources.part import Part, Rule

RoleName = Literal["encode", "prefill", "decode", "mixed"]
ROLE_NAMES: Final[tuple[RoleName, ...]] = get_args(RoleName)
assert set(ROLE_NAMES) == {role.value for role in Role}, "a pool can have every role that a worker can have"


class ReplicaBounds(Part):
    """How many workers a pool may have."""

    min: Annotated[int, Field(ge=0, le=1000)] = 1
    """At least so many; with 0 others may scale it to zero. Without workers requests are refused."""
    max: Annotated[int, Field(ge=1, le=1000)] | None = None
    """At most so many; not given: `min`, and at least 1."""
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.max) || self.max >= self.min",
            message="has a max below its min; raise max or lower min",
            holds=lambda bounds: bounds.max is None or bounds.max >= bounds.min,
        ),
    )

    @property
    def top(self) -> int:
        """The upper bound in force."""
        return max(1, self.min) if self.max is None else self.max


class Toleration(Part):
    """A taint that the pool's pods put up with, as Kubernetes writes it."""

    key: str | None = None
    """The taint's key; none: every key."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Whether the value matters."""
    value: str | None = None
    """The taint's value, for Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; none: all."""


class PoolResources(Part):
    """What each worker gets of its node, GPUs apart."""

    cpu: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?m?$")] = "1"
    """CPU requested."""
    memory: Annotated[str, Field(pattern=r"^[0-9]+(Mi|Gi)$")] = "4Gi"
    """Memory, requested and at most."""


class EngineSpec(Part):
    """The engine's limits; what is not given is the engine's own default."""

    kv_memory_mib: Annotated[int, Field(ge=1)] | None = None
    """KV pool of each worker."""
    block_tokens: Annotated[int, Field(ge=16, multiple_of=16)] | None = None
    """KV block size."""
    batch_sequences_max: Annotated[int, Field(ge=1)] | None = None
    """Sequences decoded in one step."""
    step_tokens_max: Annotated[int, Field(ge=1)] | None = None
    """Token budget of one step."""
    sequence_tokens_max: Annotated[int, Field(ge=1)] | None = None
    """Longest sequence."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of the engine."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Number format of weights and KV."""


class PoolSpec(Part):
    """One pool. Empty: one worker of the role its name says."""

    role: RoleName | None = None
    """What its workers do; not given: the pool's name."""
    gpu_classes: Annotated[tuple[str, ...], Field(max_length=8)] | None = None
    """GPUClasses in order of preference. Not given: every GPUClass of the cluster, cheapest first. Empty: CPUs."""
    replicas: ReplicaBounds = Field(default_factory=ReplicaBounds)
    """How many workers."""
    encodes: bool = False
    """Whether its workers hold the model's vision tower too, and encode images beside what their role says."""
    tensor_parallel: Annotated[int, Field(ge=1, le=1)] = 1
    """GPUs of each worker. This release runs each worker on one."""
    resources: PoolResources = Field(default_factory=PoolResources)
    """CPU and memory of each worker."""
    engine: EngineSpec = Field(default_factory=EngineSpec)
    """Limits of each worker's engine."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=20)] = ()
    """Node taints the workers put up with; GPU taints of the classes are added."""
    spread: Annotated[tuple[str, ...], Field(max_length=4)] = ("kubernetes.io/hostname",)
    """Node labels over whose values workers are spread, as far as possible."""
    startup_s: Annotated[int, Field(ge=10, le=86400, alias="startupSeconds")] = 900
    """How long a worker may take to load the model before it is restarted."""

    def role_as(self, name: str) -> RoleName | None:
        """The role of the pool called `name`; None if neither says one."""
        if self.role is not None:
            return self.role
        return next((role for role in ROLE_NAMES if role == name), None)
