"""A ModelService's status: what the operator answers, field by field. Next: `status.py`, which fills it in."""

from typing import Annotated, Literal

from pydantic import Field

from sluice.operator.resources.part import Part


class Condition(Part):
    """One statement about the service, in Kubernetes' shape."""

    type: Literal["Accepted", "Available", "Progressing", "Degraded"]
    """Accepted: the spec can be run. Available: requests are served. Progressing: pods are being changed.
    Degraded: less is there than was asked for."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    reason: str
    """Why, in one word."""
    message: str
    """Why, in a sentence a person can act on."""
    observed_generation: int
    """The generation of the spec this is about."""
    last_transition_time: str
    """When `status` last changed."""


class PoolStatus(Part):
    """One pool's workers."""

    name: str
    """The pool."""
    role: str
    """What its workers do."""
    desired: int
    """Workers wanted now."""
    ready: int
    """Workers that admit work of this pool, those lent to it included."""
    starting: int = 0
    """Workers that load the model or wait for a node."""
    draining: int = 0
    """Workers that hand their requests to others."""
    drained: int = 0
    """Workers without any request left: safe to delete."""
    lent: int = 0
    """Workers of this pool that work for another one."""
    outdated: int = 0
    """Workers of an earlier revision."""


class LinkStatus(Part):
    """KV traffic from one worker to another."""

    from_worker: Annotated[str, Field(alias="from")]
    """The sender."""
    to: str
    """The receiver."""
    transport: str
    """What moves the bytes."""
    gb_per_s: Annotated[float, Field(alias="gbPerSecond")]
    """10^9 bytes per second of recent pushes."""
    failed: int = 0
    """Pushes that failed."""
    last_error: str | None = None
    """What the latest failure said. Never "": Kubernetes 1.20 takes an applied "" for null and refuses the status."""


class ModelServiceStatus(Part):
    """What there is of a ModelService."""

    observed_generation: int = 0
    """The spec's generation this status is about."""
    conditions: Annotated[
        tuple[Condition, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ] = ()
    """Accepted, Available, Progressing, Degraded."""
    endpoint: str = ""
    """OpenAI API inside the cluster."""
    workers: str = ""
    """Ready and wanted workers, for people."""
    pools: tuple[PoolStatus, ...] = ()
    """Every pool."""
    model: str = ""
    """The model source that was accepted; it does not change."""
    revision: str = ""
    """The revisions of all pools as one word."""
    failed_revisions: tuple[str, ...] = ()
    """Revisions of pools that were taken back; they are not tried again."""
    attainment_percent: float | None = None
    """Share of recent requests that met every objective."""
    dollars_per_million_tokens: float | None = None
    """What recent output cost on the GPUs that are running."""
    running: int | None = None
    """Requests that workers compute."""
    queued: int | None = None
    """Requests waiting for a worker."""
    moved: int | None = None
    """Running requests that changed their worker in the last five minutes, unnoticed."""
    kv_fabric: tuple[LinkStatus, ...] = ()
    """Links between workers, slowest first; at most 50."""
