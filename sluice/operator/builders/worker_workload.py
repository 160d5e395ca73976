"""The pods of one pool: a Deployment and a ConfigMap per revision of the pod template.

A revision is a hash of everything a worker starts with. Old and new pods stand beside each other in
Deployments of their own, so that an old pod that restarts still finds the settings it was made
with, and the operator alone says how many of each there are (docs/adr/0013). Pure. Next: `pool_plan.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluice.config.operator import OperatorConfig
from sluice.operator import names
from sluice.operator.accept import AcceptedPool, AcceptedService
from sluice.operator.builders import pod_parts
from sluice.operator.builders.gpu_profile import PROFILE_FILE, gpu_profile
from sluice.operator.builders.model_volume import model_volume
from sluice.operator.builders.settings_text import settings_text
from sluice.operator.manifest import Kind, Manifest, digest, head


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTemplate:
    """A pool's pods as they should be now: the revision's name and what it consists of."""

    pool: AcceptedPool
    revision: str
    settings: str  # worker.yaml
    profile: str  # profile.json; empty: none
    pod: Manifest


def pool_template(service: AcceptedService, pool: AcceptedPool, config: OperatorConfig) -> PoolTemplate:
    """The pod template of a pool and the revision it makes."""
    image = service.spec.images.worker or config.worker_image
    model = model_volume(service, config, image=image, wanted="all")
    settings = settings_text(worker_settings(service, pool, model_path=model.path))
    profile = gpu_profile(pool, model=service.model_name)
    labels = names.pool_selector(service.name, pool.name)
    pod = {
        "metadata": {"labels": {**names.service_labels(service.name), **labels}},
        "spec": {
            "serviceAccountName": names.worker_account_name(service.name),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": pod_parts.worker_grace_s(service.spec.drain.deadline_s),
            "securityContext": pod_parts.pod_security(service),
            **pod_parts.pull_secrets(config),
            **({"initContainers": list(model.init)} if model.init else {}),
            "containers": [_container(pool, config, image=image, mounts=model.mounts)],
            "volumes": list(model.volumes),
            **_placement(pool),
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": key,
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": labels},
                }
                for key in pool.spec.spread
            ],
        },
    }
    revision = digest([pod, settings, *([profile] if profile else [])], chars=names.REVISION_CHARS)
    return PoolTemplate(pool=pool, revision=revision, settings=settings, profile=profile, pod=pod)


def worker_settings(service: AcceptedService, pool: AcceptedPool, *, model_path: str) -> dict[str, Any]:
    """The fields of `WorkerConfig`; a worker's own name and address come from its command line."""
    spec = service.spec
    emulated = service.emulated_gpu(pool)
    on_gpu = bool(pool.classes) and not emulated
    engine = pool.spec.engine.model_dump(exclude_none=True)
    return {
        "model_path": model_path,
        "model_name": service.model_name,
        "role": pool.role,
        "routers": [f"{names.discovery_name(service.name)}.{service.namespace}.svc:{names.PORT_GRPC}"],
        "host": "0.0.0.0",  # noqa: S104 - a pod's own network
        "kv_port": names.PORT_KV,
        "metrics_port": names.PORT_METRICS,
        "stop_grace_s": spec.drain.deadline_s,
        **({"emulate": spec.model.emulated.shape} if spec.model.emulated is not None else {}),
        **({"gpu": gpu} if (gpu := _gpu_settings(service, pool, emulated=emulated)) else {}),
        **({"images": {"encodes": True}} if pool.spec.encodes else {}),
        "engine": {"device": "cuda" if on_gpu else "cpu", **engine},
        "transfer": {
            "transports": list(spec.transfer.transports or (("nixl", "tcp") if on_gpu else ("tcp",))),
            "floor_gb_per_s": spec.transfer.floor_gb_per_s,
        },
        "telemetry": {"log_format": "json"},
    }


def worker_deployment(service: AcceptedService, template: PoolTemplate, *, replicas: int) -> Manifest:
    """The Deployment of a pool's wanted revision."""
    pool = template.pool
    name = names.workload_name(service.name, pool.name, template.revision)
    mark = {names.LABEL_REVISION: template.revision}
    metadata, spec = template.pod["metadata"], template.pod["spec"]
    labels = {**metadata["labels"], **mark}
    return {
        **head(Kind.DEPLOYMENT, name, namespace=service.namespace, labels=labels),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": {**names.pool_selector(service.name, pool.name), **mark}},
            # The template of a revision never changes; should a hand change it, one pod at a time.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {**spec, "volumes": [*pod_parts.pod_volumes(name), *spec["volumes"]]},
            },
        },
    }


def worker_config_map(service: AcceptedService, template: PoolTemplate) -> Manifest:
    """The settings file of a revision, and the profile it names."""
    name = names.workload_name(service.name, template.pool.name, template.revision)
    labels = {
        **names.service_labels(service.name),
        **names.pool_selector(service.name, template.pool.name),
        names.LABEL_REVISION: template.revision,
    }
    return {
        **head(Kind.CONFIG_MAP, name, namespace=service.namespace, labels=labels),
        "data": {
            "worker.yaml": template.settings,
            **({PROFILE_FILE: template.profile} if template.profile else {}),
        },
    }


def _container(pool: AcceptedPool, config: OperatorConfig, *, image: str, mounts: tuple[Manifest, ...]) -> Manifest:
    one = pod_parts.Container(
        name=names.COMPONENT_WORKER,
        image=image,
        # The cluster writes the pod's name and address into the arguments.
        args=[
            "worker",
            f"--config={names.CONFIG_FOLDER}/worker.yaml",
            "--name=$(POD_NAME)",
            "--advertise-host=$(POD_IP)",
        ],
        ports={"kv": names.PORT_KV, "metrics": names.PORT_METRICS},
        observed_port="metrics",
        startup_s=pool.spec.startup_s,
        cpu=pool.spec.resources.cpu,
        memory=pool.spec.resources.memory,
        extra_limits=_gpus(pool),
        mounts=mounts,
    )
    return pod_parts.container(one, config)


def _gpu_settings(service: AcceptedService, pool: AcceptedPool, *, emulated: str) -> dict[str, Any]:
    """What a worker cannot know of its GPU by itself."""
    has_profile = bool(gpu_profile(pool, model=service.model_name))
    # A price only where there is one class: the cluster decides on which of several a pod lands.
    price = {"price_per_h": pool.classes[0].spec.price_per_hour} if len(pool.classes) == 1 else {}
    profile = {"profile": f"{names.CONFIG_FOLDER}/{PROFILE_FILE}"} if has_profile else {}
    return {**({"gpu_class": emulated} if emulated else {}), **price, **profile}


def _gpus(pool: AcceptedPool) -> Mapping[str, str]:
    return {pool.classes[0].spec.resource: str(pool.spec.tensor_parallel)} if pool.classes else {}


def _placement(pool: AcceptedPool) -> Manifest:
    """Nodes of any of the pool's classes, the earlier the better; and the taints its pods put up with."""
    tolerations = [item.model_dump(by_alias=True, exclude_none=True) for item in pool.spec.tolerations]
    placement: Manifest = {}
    if pool.classes:
        resource = pool.classes[0].spec.resource
        tolerations.append({"key": resource, "operator": "Exists", "effect": "NoSchedule"})
        terms = [_node_term(one.spec.node_selector) for one in pool.classes]
        first = len(terms)
        placement["affinity"] = {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": (first - rank) * 100 // first, "preference": term} for rank, term in enumerate(terms)
                ],
            }
        }
    return {**placement, "tolerations": tolerations}


def _node_term(selector: Mapping[str, str]) -> Manifest:
    wanted = [{"key": key, "operator": "In", "values": [value]} for key, value in sorted(selector.items())]
    return {"matchExpressions": wanted}
