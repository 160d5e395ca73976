"""Every object of a service but the worker Deployments' sizes: the list that is applied and held true.

Pure. Owner references make the cluster delete all of it with the ModelService. Next: `reconcile.py`.
"""

from collections.abc import Mapping

from sluice.config.operator import OperatorConfig
from sluice.operator import names
from sluice.operator.accept import AcceptedPool, AcceptedService
from sluice.operator.builders import guards, network, router_workload
from sluice.operator.builders.guards import BudgetKind
from sluice.operator.manifest import KIND_NAMES, Kind, Manifest, head


def service_objects(
    service: AcceptedService, config: OperatorConfig, *, replicas: Mapping[str, int], budget: BudgetKind
) -> list[Manifest]:
    """All but the pools' workloads, in the order they are applied. `replicas` are the pools' wanted sizes."""
    objects = [
        *guards.accounts(service),
        router_workload.router_config_map(service, config),
        network.discovery_service(service),
        network.endpoint_service(service),
        *([network.worker_network_policy(service)] if service.spec.security.network_policy else []),
        guards.router_budget(service, kind=budget),
        *(guards.pool_budget(service, pool, replicas=replicas[pool.name], kind=budget) for pool in service.pools),
        router_workload.router_deployment(service, config),
    ]
    return [owned(service, one) for one in objects]


def worker_pool(service: AcceptedService, pool: AcceptedPool, *, replicas: int) -> Manifest:
    """The object that carries a pool's wanted size. Written once; its size then belongs to whoever scales."""
    name = names.pool_name(service.name, pool.name)
    labels = {**names.service_labels(service.name), names.LABEL_POOL: pool.name}
    pool_object = {
        **head(Kind.WORKER_POOL, name, namespace=service.namespace, labels=labels),
        "spec": {"service": service.name, "pool": pool.name, "replicas": replicas},
    }
    return owned(service, pool_object)


def owned(service: AcceptedService, manifest: Manifest) -> Manifest:
    """The manifest as a part of its ModelService: it goes when the service goes."""
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": KIND_NAMES[Kind.MODEL_SERVICE],
        "name": service.name,
        "uid": service.uid,
        "controller": True,
        # Blocking would need a permission of its own, and nobody waits for it.
        "blockOwnerDeletion": False,
    }
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [owner]}}
