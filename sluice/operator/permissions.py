"""What the operator may do in a cluster: the shortest list with which it works, and why each line is there.

The chart's Role and ClusterRole equal this list, and tests show that nothing else is called and
nothing here goes unused. A server-side apply that makes an object needs `create` beside `patch`. Never grants
on Secrets: nothing here reads one. Next: `cluster.py`.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Some verbs on some resources of one API group; `group` "" is the core group."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str


SERVICE_NAMESPACE_PERMISSIONS: Final = (
    Permission(
        group="sluice.dev",
        resources=("modelservices",),
        verbs=("get", "list", "watch"),
        why="what users ask for",
    ),
    Permission(
        group="sluice.dev",
        resources=("modelservices/status", "workerpools/status"),
        verbs=("patch",),
        why="what the operator answers",
    ),
    Permission(
        group="sluice.dev",
        resources=("workerpools",),
        verbs=("list", "watch", "create", "patch", "delete"),
        why="a pool's wanted size, which others may set",
    ),
    Permission(
        group="apps",
        resources=("deployments",),
        verbs=("list", "watch", "create", "patch", "delete"),
        why="routers, and one Deployment per pool and revision",
    ),
    Permission(
        group="",
        resources=("services", "serviceaccounts"),
        verbs=("list", "create", "patch"),
        why="the endpoint and the pods' identities",
    ),
    Permission(
        group="",
        resources=("configmaps",),
        verbs=("list", "create", "patch", "delete"),
        why="settings files, one for each revision",
    ),
    Permission(
        group="networking.k8s.io",
        resources=("networkpolicies",),
        verbs=("list", "create", "patch", "delete"),
        why="who may reach workers",
    ),
    Permission(
        group="policy",
        resources=("poddisruptionbudgets",),
        verbs=("list", "create", "patch", "delete"),
        why="what may not be evicted",
    ),
    Permission(
        group="",
        resources=("pods",),
        verbs=("list", "watch", "patch", "delete"),
        why="workers as pods; their role and state are written on them as labels",
    ),
    Permission(group="", resources=("events",), verbs=("create",), why="what happened, in words"),
)
"""In every namespace that has ModelServices: a ClusterRole, or a Role per namespace."""

CLUSTER_PERMISSIONS: Final = (
    Permission(
        group="sluice.dev", resources=("gpuclasses",), verbs=("list", "watch"), why="kinds of GPUs, cluster-wide"
    ),
    Permission(group="", resources=("nodes",), verbs=("list", "watch"), why="which nodes are cordoned or about to go"),
    Permission(
        group="apiextensions.k8s.io",
        resources=("customresourcedefinitions",),
        verbs=("list", "watch"),
        why="kopf waits for the custom resources to exist",
    ),
)
"""Cluster-wide, always: a ClusterRole."""

NAMED_NAMESPACES_PERMISSIONS: Final = (
    Permission(
        group="", resources=("namespaces",), verbs=("list", "watch"), why="kopf waits for the namespaces to exist"
    ),
)
"""Cluster-wide where namespaces are listed, and only there."""

OWN_NAMESPACE_PERMISSIONS: Final = (
    Permission(
        group="coordination.k8s.io",
        resources=("leases",),
        verbs=("get", "create", "update"),
        why="which of several operators acts",
    ),
)
"""In the operator's own namespace: a Role."""
