"""The routers of a service: a Deployment that never has fewer than wanted, and its settings.

Pure. Next: `network.py`.
"""

from typing import Any

from sluice.config.operator import OperatorConfig
from sluice.operator import names
from sluice.operator.accept import AcceptedService
from sluice.operator.builders import pod_parts
from sluice.operator.builders.model_volume import model_volume
from sluice.operator.builders.settings_text import settings_text
from sluice.operator.manifest import Kind, Manifest, digest, head

STARTUP_S = 120


def router_settings(service: AcceptedService, *, model_path: str) -> dict[str, Any]:
    """The fields of `RouterConfig`."""
    spec = service.spec
    return {
        "model_path": model_path,
        "model_name": service.model_name,
        "host": "0.0.0.0",  # noqa: S104 - a pod's own network
        "http_port": names.PORT_HTTP,
        "grpc_port": names.PORT_GRPC,
        "stop_grace_s": spec.drain.deadline_s,
        "admission": {
            "queue_timeout_s": spec.routers.queue_timeout_s,
            "request_timeout_s": spec.routers.request_timeout_s,
            **({"hold_s": service.hold_s} if service.hold_s else {}),
        },
        "placement": {"flips_max": 0},  # roles are the operator's to change
        "slo": spec.objectives.model_dump(mode="json", exclude_none=True),
        "telemetry": {"log_format": "json"},
    }


def router_config_map(service: AcceptedService, config: OperatorConfig) -> Manifest:
    """The routers' settings file."""
    image = service.spec.images.router or config.router_image
    path = model_volume(service, config, image=image, wanted="text").path
    labels = {**names.service_labels(service.name), **names.router_selector(service.name)}
    return {
        **head(Kind.CONFIG_MAP, names.router_name(service.name), namespace=service.namespace, labels=labels),
        "data": {"router.yaml": settings_text(router_settings(service, model_path=path))},
    }


def router_deployment(service: AcceptedService, config: OperatorConfig) -> Manifest:
    """The router pods. New settings make new pods, each ready before an old one leaves."""
    image = service.spec.images.router or config.router_image
    model = model_volume(service, config, image=image, wanted="text")
    name = names.router_name(service.name)
    selector = names.router_selector(service.name)
    labels = {**names.service_labels(service.name), **selector}
    settings_mark = digest(router_config_map(service, config)["data"])
    one = pod_parts.Container(
        name=names.COMPONENT_ROUTER,
        image=image,
        args=["router", f"--config={names.CONFIG_FOLDER}/router.yaml"],
        ports={"http": names.PORT_HTTP, "grpc": names.PORT_GRPC},
        observed_port="http",
        startup_s=STARTUP_S,
        cpu=service.spec.routers.cpu,
        memory=service.spec.routers.memory,
        extra_limits={},
        mounts=model.mounts,
        pre_stop=("sleep", str(pod_parts.ROUTER_LEAVES_S)),
    )
    pod = {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": pod_parts.router_grace_s(service.spec.drain.deadline_s),
        "securityContext": pod_parts.pod_security(service),
        **pod_parts.pull_secrets(config),
        **({"initContainers": list(model.init)} if model.init else {}),
        "containers": [pod_parts.container(one, config)],
        "volumes": [*pod_parts.pod_volumes(name), *model.volumes],
        # One node that goes should not take every router with it.
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector},
            }
        ],
    }
    return {
        **head(Kind.DEPLOYMENT, name, namespace=service.namespace, labels=labels),
        "spec": {
            "replicas": service.spec.routers.replicas,
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": selector},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": labels, "annotations": {"sluice.dev/settings": settings_mark}},
                "spec": pod,
            },
        },
    }
