"""Every name the operator shares with the cluster: API group, labels, annotations, ports, paths, object names.

Charts, tests and dashboards use these and invent none. Decides nothing else. Next: `builders/`, which
put the names on objects.
"""

from typing import Final

GROUP: Final = "sluice.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

FIELD_MANAGER: Final = "sluice-operator"
"""Who owns the fields that are applied server-side."""

CREATE_MANAGER: Final = "sluice-operator-create"
"""Who owns what is written once and then left to others: a WorkerPool's replicas."""

LEASE_NAME: Final = "sluice-operator"

# ------------------------------------------------------------ labels

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_PART_OF: Final = "app.kubernetes.io/part-of"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_SERVICE: Final = "sluice.dev/service"
"""The ModelService an object belongs to; on everything the operator makes."""
LABEL_POOL: Final = "sluice.dev/pool"
LABEL_REVISION: Final = "sluice.dev/revision"
"""Which pod template a worker was made from: 8 hexadecimal digits."""
LABEL_ROLE: Final = "sluice.dev/role"
"""The role a worker has now, which a flip changes; on worker pods."""
LABEL_LIFECYCLE: Final = "sluice.dev/lifecycle"
"""starting, ready, draining or drained, as the worker's router says; on worker pods."""
LABEL_FINGERPRINT: Final = "sluice.dev/fingerprint"
"""Workers with equal fingerprints can exchange KV; on worker pods."""

COMPONENT_ROUTER: Final = "router"
COMPONENT_WORKER: Final = "worker"
MANAGED_BY: Final = "sluice"

# ------------------------------------------------------------ annotations

ANNOTATION_APPLIED: Final = "sluice.dev/applied"
"""A hash of the manifest as it was applied: what tells a no-op from a change."""
ANNOTATION_LEAVING: Final = "sluice.dev/leaving"
"""On a worker pod: the operator has decided that it goes, and why. Remove it and the worker may stay."""
ANNOTATION_FLIP_TO: Final = "sluice.dev/flip-to"
"""On a worker pod: the role the operator empties it for."""
ANNOTATION_SAFE_TO_DELETE: Final = "sluice.dev/safe-to-delete"
"""On a worker pod: "true" when no request, lease or transfer is left on it."""
ANNOTATION_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
"""Kubernetes 1.22 and later: pods of lower cost are removed first."""

# ------------------------------------------------------------ inside pods

PORT_HTTP: Final = 8000
PORT_GRPC: Final = 8001
PORT_KV: Final = 7001
PORT_METRICS: Final = 9100

CONFIG_FOLDER: Final = "/etc/sluice"
MODEL_FOLDER: Final = "/models"
DEMO_MODEL_FOLDER: Final = "/opt/sluice/demo_model"
"""Where both images keep the small model that comes with Sluice."""
USER_ID: Final = 10001

# ------------------------------------------------------------ object names

SERVICE_NAME_CHARS_MAX: Final = 30
POOL_NAME_CHARS_MAX: Final = 15
REVISION_CHARS: Final = 8


def router_name(service: str) -> str:
    """The router Deployment, its ConfigMap and ServiceAccount."""
    return f"{service}-router"


def discovery_name(service: str) -> str:
    """The headless Service whose addresses workers dial."""
    return f"{service}-routers"


def worker_account_name(service: str) -> str:
    """The ServiceAccount of every worker."""
    return f"{service}-worker"


def pool_name(service: str, pool: str) -> str:
    """A WorkerPool, and the PodDisruptionBudget over its pods."""
    return f"{service}-{pool}"


def workload_name(service: str, pool: str, revision: str) -> str:
    """The Deployment and ConfigMap of one revision of a pool."""
    return f"{service}-{pool}-{revision}"


def service_labels(service: str) -> dict[str, str]:
    """On everything that belongs to a ModelService."""
    return {LABEL_NAME: service, LABEL_PART_OF: "sluice", LABEL_MANAGED_BY: MANAGED_BY, LABEL_SERVICE: service}


def router_selector(service: str) -> dict[str, str]:
    """Selects a ModelService's router pods."""
    return {LABEL_SERVICE: service, LABEL_COMPONENT: COMPONENT_ROUTER}


def worker_selector(service: str) -> dict[str, str]:
    """Selects a ModelService's worker pods, all pools."""
    return {LABEL_SERVICE: service, LABEL_COMPONENT: COMPONENT_WORKER}


def pool_selector(service: str, pool: str) -> dict[str, str]:
    """Selects one pool's worker pods, all revisions."""
    return {**worker_selector(service), LABEL_POOL: pool}
