"""ModelService: one model, served: what a user writes. Empty objects mean managed defaults.

Says what may be written and what must agree; a broken rule is a sentence with its remedy. Never
talks to a cluster. Next: `pool.py` for pools, `service_status.py` for what the operator answers, `accept.py` for the
checks that need other objects.
"""

from typing import Annotated, ClassVar, Final

from pydantic import Field

from sluice.operator.resources.part import Part, Rule
from sluice.operator.resources.pool import PoolSpec

NOT_DECODING: Final = frozenset({"encode", "prefill"})
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]


class ClaimSource(Part):
    """A PersistentVolumeClaim that holds the model."""

    claim: Name
    """The claim's name, in the ModelService's namespace; it must allow reading from several nodes."""
    path: Annotated[str, Field(max_length=1024)] = ""
    """Directory with config.json inside the volume; empty: its root."""


class HostSource(Part):
    """A directory that every node has."""

    path: Annotated[str, Field(pattern=r"^/", max_length=1024)]
    """Absolute path on the node."""


class HubSource(Part):
    """A model of the Hugging Face hub, downloaded by an init step of every pod."""

    repo: Annotated[str, Field(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$", max_length=200)]
    """owner/name."""
    revision: Annotated[str, Field(min_length=1, max_length=100)] = "main"
    """Branch, tag or commit; a commit never changes under you."""
    token_secret: Name | None = None
    """A Secret with the key `token`, for models that need one."""


class ImageSource(Part):
    """An OCI image that carries the model as files; an init step copies it."""

    image: Annotated[str, Field(min_length=1, max_length=500)]
    """Image reference; it must contain `cp`."""
    path: Annotated[str, Field(pattern=r"^/", max_length=1024)] = "/model"
    """Directory with config.json inside the image."""


class EmulatedModel(Part):
    """A model without weights, for trying the platform where there is no GPU."""

    shape: Annotated[str, Field(min_length=1, max_length=100)]
    """The model whose steps are emulated, for example Llama-3.1-8B."""
    gpu: Annotated[str, Field(max_length=100)] = ""
    """The GPU that steps take the time of, for example L4; empty: the first GPUClass of each pool, by its name."""


class ModelSource(Part):
    """Where the model is. Nothing given: the small demo model that is part of the images."""

    name: Annotated[str, Field(max_length=200)] = ""
    """What clients call it; empty: the ModelService's name."""
    pvc: ClaimSource | None = None
    """On a PersistentVolumeClaim."""
    host_path: HostSource | None = None
    """On every node's disk."""
    hugging_face: HubSource | None = None
    """On the Hugging Face hub."""
    oci: ImageSource | None = None
    """In an OCI image."""
    emulated: EmulatedModel | None = None
    """Present: no weights are loaded, and steps last as on a real GPU. The source gives the tokenizer."""
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.pvc), has(self.hostPath), has(self.huggingFace), has(self.oci)].filter(x, x).size() <= 1",
            message="names several sources; keep one of pvc, hostPath, huggingFace, oci",
            holds=lambda model: len([one for one in model.sources if one is not None]) <= 1,
        ),
    )

    @property
    def sources(self) -> tuple[Part | None, ...]:
        """Every possible source, given or not."""
        return (self.pvc, self.host_path, self.hugging_face, self.oci)


class ClassObjectives(Part):
    """What requests of one service tier must meet."""

    ttft_s: Annotated[float, Field(gt=0, le=3600, alias="ttftSeconds")]
    """Time to first token."""
    tpot_s: Annotated[float, Field(gt=0, le=3600, alias="tpotSeconds")]
    """Mean time per output token after the first."""
    miss_cost: Annotated[float, Field(gt=0)] = 1.0
    """What a missed request costs, relative to one of the standard class."""


class Objectives(Part):
    """What a request must meet to count as good."""

    ttft_s: Annotated[float, Field(gt=0, le=3600, alias="ttftSeconds")] = 1.0
    """Time to first token."""
    tpot_s: Annotated[float, Field(gt=0, le=3600, alias="tpotSeconds")] = 0.1
    """Mean time per output token after the first."""
    interactive: ClassObjectives | None = None
    """Of requests that ask for the interactive class; not given: the router's own."""
    batch: ClassObjectives | None = None
    """Of requests that ask for the batch class; not given: the router's own."""


class RouterSpec(Part):
    """The pods clients talk to."""

    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    """Routers; every worker is connected to each."""
    cpu: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?m?$")] = "500m"
    """CPU requested by each."""
    memory: Annotated[str, Field(pattern=r"^[0-9]+(Mi|Gi)$")] = "512Mi"
    """Memory of each, requested and at most."""
    queue_timeout_s: Annotated[float, Field(gt=0, le=3600, alias="queueTimeoutSeconds")] = 60.0
    """How long a request may wait for a worker."""
    request_timeout_s: Annotated[float, Field(gt=0, le=86400, alias="requestTimeoutSeconds")] = 600.0
    """How long a request may take in all."""
    hold_s: Annotated[float | None, Field(ge=0, le=3600, alias="holdSeconds")] = None
    """How long requests are held while no worker serves. Not given: 300 where `scaling` may empty a pool, else 0."""


class ScalingSpec(Part):
    """Present: the platform sizes the pools itself, from its own signals. Absent: others may, through `/scale`."""

    attainment_percent_min: Annotated[float, Field(gt=0, le=100)] = 99.0
    """Share of requests that should meet every objective; below it pools grow."""
    up_after_s: Annotated[float, Field(ge=0, le=3600, alias="upAfterSeconds")] = 15.0
    """How long a pool must be short of room before it grows."""
    down_after_s: Annotated[float, Field(ge=0, le=86400, alias="downAfterSeconds")] = 300.0
    """How long a pool must have room to spare before it shrinks."""
    flips: bool = True
    """Whether a worker may be given another role before a pod is started."""


class TransferSpec(Part):
    """How KV moves between workers."""

    transports: tuple[Annotated[str, Field(pattern=r"^(tcp|nixl)$")], ...] = ()
    """In order of preference; none: nixl and tcp on GPUs, tcp on CPUs."""
    floor_gb_per_s: Annotated[float, Field(ge=0, alias="floorGbPerSecond")] = 0.005
    """A link that a probe finds slower, in 10^9 bytes per second, is not used. Set what your fabric should do."""


class DrainSpec(Part):
    """How workers leave."""

    deadline_s: Annotated[float, Field(ge=1, le=86400, alias="deadlineSeconds")] = 60.0
    """How long a worker may take to move its requests away; pods' grace periods follow from it."""
    node_taints: Annotated[tuple[str, ...], Field(max_length=20)] = (
        "ToBeDeletedByClusterAutoscaler",
        "DeletionCandidateOfClusterAutoscaler",
        "cloud.google.com/impending-node-termination",
        "aws-node-termination-handler/spot-itn",
        "karpenter.sh/disrupted",
    )
    """Keys of node taints that mean: this node is about to go. Its workers are drained at once."""


class RolloutSpec(Part):
    """How a new pod template replaces the old one."""

    surge: Annotated[int, Field(ge=0, le=1)] = 0
    """Extra workers a pool may have meanwhile. 0 needs no spare GPU."""
    progress_deadline_s: Annotated[float, Field(ge=10, le=86400, alias="progressDeadlineSeconds")] = 600.0
    """How long a new worker may take to become ready before the rollout is taken back."""


class SecuritySpec(Part):
    """What pods may do. They never run as root, never write to their image and hold no capability."""

    network_policy: bool = True
    """Whether only routers, workers of the same service and the operator may reach workers."""
    run_as_user: Annotated[int, Field(ge=1)] = 10001
    """The user id of every process."""


class ImagesSpec(Part):
    """Other images than the operator's own settings name."""

    router: str | None = None
    """Image of routers."""
    worker: str | None = None
    """Image of workers."""


def _default_pools() -> dict[str, PoolSpec]:
    return {"prefill": PoolSpec(), "decode": PoolSpec()}


class ModelServiceSpec(Part):
    """One model, served by pools of workers behind one endpoint."""

    model: ModelSource = Field(default_factory=ModelSource)
    """The model. It cannot be changed later: its workers could not exchange KV with those before."""
    objectives: Objectives = Field(default_factory=Objectives)
    """What requests should meet; goodput and attainment are counted against it."""
    pools: Annotated[dict[str, PoolSpec], Field(min_length=1, max_length=16)] = Field(default_factory=_default_pools)
    """Pools by name. None given: one prefill and one decode worker."""
    routers: RouterSpec = Field(default_factory=RouterSpec)
    """The pods clients talk to."""
    scaling: ScalingSpec | None = None
    """Present, even empty: the platform scales the pools."""
    transfer: TransferSpec = Field(default_factory=TransferSpec)
    """How KV moves."""
    drain: DrainSpec = Field(default_factory=DrainSpec)
    """How workers leave."""
    rollout: RolloutSpec = Field(default_factory=RolloutSpec)
    """How changes reach workers."""
    security: SecuritySpec = Field(default_factory=SecuritySpec)
    """What pods may do."""
    images: ImagesSpec = Field(default_factory=ImagesSpec)
    """Images other than the installed ones."""
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="model",
            cel="has(self.model) == has(oldSelf.model) && (!has(self.model) || self.model == oldSelf.model)",
            message="cannot be changed; make another ModelService and delete this one when clients have moved",
            holds=lambda _: True,  # the operator knows the earlier model from the status: `accept.py`
        ),
        Rule(
            field="pools",
            cel="!has(self.pools) || "
            "self.pools.all(name, has(self.pools[name].role) || name in ['encode', 'prefill', 'decode', 'mixed'])",
            message="has a pool without `role` whose name is no role; give it `role: prefill`, or another one",
            holds=lambda spec: all(pool.role_as(name) is not None for name, pool in spec.pools.items()),
        ),
        Rule(
            field="pools",
            cel="!has(self.pools) || self.pools.exists(name, "
            "!((has(self.pools[name].role) ? self.pools[name].role : name) in ['encode', 'prefill']))",
            message="has no pool that decodes; add `decode: {}` or `mixed: {}`",
            holds=lambda spec: any(pool.role_as(name) not in NOT_DECODING for name, pool in spec.pools.items()),
        ),
    )
