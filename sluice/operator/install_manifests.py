"""The manifests that install the operator: definitions, account, roles, settings, Deployment. Pure.

The chart makes the same and more; this is what a cluster needs at least. Next: `permissions.py` for what the
roles hold.
"""

from dataclasses import dataclass
from typing import Final

from sluice.config import load
from sluice.operator import names
from sluice.operator.builders import pod_parts
from sluice.operator.crd_yaml import DEFINITIONS, definition
from sluice.operator.manifest import Manifest
from sluice.operator.permissions import (
    CLUSTER_PERMISSIONS,
    OWN_NAMESPACE_PERMISSIONS,
    SERVICE_NAMESPACE_PERMISSIONS,
)
from sluice.operator.permissions_yaml import rules

NAME: Final = "sluice-operator"
RBAC: Final = "rbac.authorization.k8s.io/v1"
HEALTH_PORT: Final = 8080


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What differs between installations."""

    namespace: str
    control_image: str
    worker_image: str
    with_rules: bool


def install_manifests(wanted: Installation) -> list[Manifest]:
    """Every manifest, in an order in which they can be applied."""
    own = {"name": NAME, "namespace": wanted.namespace}
    everywhere = (*SERVICE_NAMESPACE_PERMISSIONS, *CLUSTER_PERMISSIONS)
    return [
        *(definition(one, with_rules=wanted.with_rules) for one in DEFINITIONS),
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": wanted.namespace}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": own},
        {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": NAME}, "rules": rules(everywhere)},
        _binding("ClusterRole", {"name": NAME}, wanted),
        {
            "apiVersion": RBAC,
            "kind": "Role",
            "metadata": own,
            "rules": rules(OWN_NAMESPACE_PERMISSIONS),
        },
        _binding("Role", own, wanted),
        _settings(wanted),
        _deployment(wanted),
    ]


def _binding(kind: str, metadata: dict[str, str], wanted: Installation) -> Manifest:
    return {
        "apiVersion": RBAC,
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": NAME},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": wanted.namespace}],
    }


def _settings(wanted: Installation) -> Manifest:
    settings = {
        "router_image": wanted.control_image,
        "worker_image": wanted.worker_image,
        "lease_namespace": wanted.namespace,
        "telemetry": {"log_format": "json"},
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": wanted.namespace},
        "data": {"operator.yaml": load.to_yaml(settings)},
    }


def _deployment(wanted: Installation) -> Manifest:
    labels = {names.LABEL_NAME: NAME, names.LABEL_PART_OF: "sluice"}
    health = {"httpGet": {"path": "/healthz", "port": "health", "scheme": "HTTP"}, "timeoutSeconds": 5}
    container = {
        "name": "operator",
        "image": wanted.control_image,
        "command": ["kopf"],
        "args": [
            "run",
            "--module=sluice.operator.handlers",
            "--all-namespaces",
            "--standalone",
            f"--liveness=http://0.0.0.0:{HEALTH_PORT}/healthz",
        ],
        "env": pod_parts.environment(),
        "ports": [{"name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        "livenessProbe": health,
        "readinessProbe": health,
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": pod_parts.container_security(),
        "volumeMounts": [
            {"name": "settings", "mountPath": names.CONFIG_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the only place a process may write
        ],
    }
    pod = {
        "serviceAccountName": NAME,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": names.USER_ID,
            "runAsGroup": names.USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "settings", "configMap": {"name": NAME}}, {"name": "tmp", "emptyDir": {}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": wanted.namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
