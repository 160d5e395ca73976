"""What router and worker pods have in common: security, probes, ports, volumes, and how long they may take to stop.

Pure. Next: `worker_workload.py`, `router_workload.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sluice.config.operator import OperatorConfig
from sluice.operator import names
from sluice.operator.accept import AcceptedService
from sluice.operator.manifest import Manifest

PROBE_TIMEOUT_S: Final = 5
LIVENESS_PERIOD_S: Final = 10
LIVENESS_FAILURES: Final = 6
READINESS_PERIOD_S: Final = 1

ROUTER_LEAVES_S: Final = 5
"""How long a stopping router still answers: until every node has heard that it is no endpoint any more."""
CLOSE_S: Final = 10
"""For what follows the drain: the engine stops, sockets close, the process ends."""


def worker_grace_s(drain_deadline_s: float) -> int:
    """How long a worker pod may take to stop: the drain, then as long again for open transfers, then the end."""
    return math.ceil(2 * drain_deadline_s) + CLOSE_S


def router_grace_s(drain_deadline_s: float) -> int:
    """How long a router pod may take to stop: it leaves the endpoints, its requests end, the process ends."""
    return ROUTER_LEAVES_S + math.ceil(drain_deadline_s) + CLOSE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What differs between a router's and a worker's container."""

    name: str
    image: str
    args: Sequence[str]
    ports: Mapping[str, int]
    observed_port: str  # the port with /healthz and /readyz
    startup_s: int
    cpu: str
    memory: str
    extra_limits: Mapping[str, str]
    mounts: Sequence[Manifest]
    pre_stop: Sequence[str] = ()


def cpu_quantity(text: str) -> str:
    """A CPU quantity as the server writes it back, for example "1500m" for "1.5"."""
    milli = round(float(text[:-1]) if text.endswith("m") else float(text) * 1000)
    return f"{milli}m" if milli % 1000 else str(milli // 1000)


def memory_quantity(text: str) -> str:
    """A memory quantity as the server writes it back, for example "1Gi" for "1024Mi"."""
    number, unit = int(text[:-2]), text[-2:]
    units = ("Mi", "Gi", "Ti", "Pi")
    while number and number % 1024 == 0 and unit != units[-1]:
        number, unit = number // 1024, units[units.index(unit) + 1]
    return f"{number}{unit}"


def container(one: Container, config: OperatorConfig) -> Manifest:
    """A container that may do nothing but its work."""
    memory = memory_quantity(one.memory)
    built: Manifest = {
        "name": one.name,
        "image": one.image,
        "imagePullPolicy": config.image_pull_policy,
        "args": list(one.args),
        "command": ["sluice"],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            *environment(),
        ],
        "ports": [
            {"name": name, "containerPort": number, "protocol": "TCP"} for name, number in sorted(one.ports.items())
        ],
        "startupProbe": _probe("/healthz", one.observed_port, period_s=1, failures=one.startup_s),
        "livenessProbe": _probe("/healthz", one.observed_port, period_s=LIVENESS_PERIOD_S, failures=LIVENESS_FAILURES),
        "readinessProbe": _probe("/readyz", one.observed_port, period_s=READINESS_PERIOD_S, failures=1),
        "resources": {
            "requests": {"cpu": cpu_quantity(one.cpu), "memory": memory, **one.extra_limits},
            "limits": {"memory": memory, **one.extra_limits},
        },
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "config", "mountPath": names.CONFIG_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the only place a process may write
            *one.mounts,
        ],
    }
    if one.pre_stop:
        built["lifecycle"] = {"preStop": {"exec": {"command": list(one.pre_stop)}}}
    return built


def environment() -> list[Manifest]:
    """What every process finds set. Libraries look the user up by name, which a bare user id has not."""
    return [{"name": "HOME", "value": "/tmp"}, {"name": "USER", "value": "sluice"}]  # noqa: S108


def container_security() -> Manifest:
    """No privilege, nothing written to the image."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def pod_security(service: AcceptedService) -> Manifest:
    """Not root, and the runtime's system call filter."""
    user = service.spec.security.run_as_user
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def pod_volumes(config_map: str) -> list[Manifest]:
    """Settings, and a place to write."""
    return [{"name": "config", "configMap": {"name": config_map}}, {"name": "tmp", "emptyDir": {}}]


def pull_secrets(config: OperatorConfig) -> Manifest:
    """The field that names image pull secrets, if there are any."""
    secrets = [{"name": name} for name in config.image_pull_secrets]
    return {"imagePullSecrets": secrets} if secrets else {}


def _probe(path: str, port: str, *, period_s: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": port, "scheme": "HTTP"},
        "periodSeconds": period_s,
        "timeoutSeconds": PROBE_TIMEOUT_S,
        "failureThreshold": failures,
    }
