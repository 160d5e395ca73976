"""WorkerPool: one pool of one ModelService as an object of its own, so that `/scale` works per pool.

Made by the operator. `spec.replicas` is the one place where a pool's wanted size stands: `kubectl
scale`, an HPA, KEDA or the platform's own scaling write it, the operator obeys within the
ModelService's bounds. Next: `model_service.py`.
"""

from typing import Annotated

from pydantic import Field

from sluice.operator.resources.part import Part


class WorkerPoolSpec(Part):
    """What is wanted of a pool."""

    service: str
    """The ModelService it belongs to."""
    pool: str
    """Its name there."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Workers wanted. The ModelService's `min` and `max` bound what is run."""


class WorkerPoolStatus(Part):
    """What there is of a pool."""

    replicas: int = 0
    """Workers that are part of the pool now, those that start or drain included."""
    ready_replicas: int = 0
    """Workers that admit work."""
    draining_replicas: int = 0
    """Workers that hand their requests to others."""
    selector: str = ""
    """Selects the pool's pods, for autoscalers."""
