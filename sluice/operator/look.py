"""Gathers one look at a service: its objects from the cluster, its workers from the routers. Decides nothing.

Every list is by label and namespace, so a look costs the same in a large cluster. Next: `observation.py`.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from sluice.operator import names
from sluice.operator.accept import AcceptedService
from sluice.operator.cluster import Cluster
from sluice.operator.manifest import Kind
from sluice.operator.observation import NodeView, Observation, observation, router_addresses
from sluice.operator.routers import Routers

CHILDREN: Final = (
    Kind.WORKER_POOL,
    Kind.DEPLOYMENT,
    Kind.SERVICE,
    Kind.CONFIG_MAP,
    Kind.SERVICE_ACCOUNT,
    Kind.NETWORK_POLICY,
)


async def look(
    service: AcceptedService,
    cluster: Cluster,
    routers: Routers,
    *,
    budget: Kind,
    nodes: Mapping[str, NodeView],
    wall_s: float,
) -> Observation:
    """One look. Raises ClusterApiError; routers that do not answer are left out."""
    kinds = (*CHILDREN, budget, Kind.POD)
    labels = {names.LABEL_SERVICE: service.name}
    lists = await asyncio.gather(*(cluster.find(kind, namespace=service.namespace, labels=labels) for kind in kinds))
    *children, pods = lists
    report = await routers.look(router_addresses(pods))
    return observation(
        [child for group in children for child in group],
        pods,
        report,
        nodes=nodes,
        node_taints=service.spec.drain.node_taints,
        progress_deadline_s=service.spec.rollout.progress_deadline_s,
        wall_s=wall_s,
    )
