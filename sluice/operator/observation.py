"""What is there of a service: its objects, its pods and what routers say of them, put together as values. Pure.

Next: `pool_plan.py`, which decides about pods; `look.py`, which gathers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Final

from sluice.domain.role import Lifecycle, Role
from sluice.operator import names
from sluice.operator.manifest import Kind, LiveObject, Ref, ref_of
from sluice.operator.routers import RouterReport, WorkerView

RESTARTS_MAX: Final = 3
"""A worker that has not become ready after so many restarts will not without a change."""


PLACE_S: Final = 30.0
"""A worker that no node has taken by then waits for a node, not for the scheduler."""


class Stage(Enum):
    """Where a worker pod stands, as far as the operator must know."""

    PENDING = "pending"  # on no node yet
    STARTING = "starting"  # on a node; no router knows it, or it loads its model
    READY = "ready"  # admits work
    DRAINING = "draining"  # hands its requests to others
    DRAINED = "drained"  # nothing is left on it
    LEAVING = "leaving"  # being deleted; its replacement is on its way


SERVING: Final = frozenset({Stage.READY, Stage.DRAINING})
"""Stages in which requests may be on the worker."""

_STAGES: Final = {
    Lifecycle.STARTING: Stage.STARTING,
    Lifecycle.READY: Stage.READY,
    Lifecycle.DRAINING: Stage.DRAINING,
    Lifecycle.DRAINED: Stage.DRAINED,
    Lifecycle.STOPPED: Stage.DRAINED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One worker pod of a pool."""

    pod: str
    pool: str  # the one whose Deployment made it
    revision: str
    stage: Stage
    role: Role | None = None  # None: no router knows it
    fingerprint: str = ""
    sequences: int = 0
    is_leaving: bool = False  # the operator has decided that it goes, and has written so on the pod
    flip_to: Role | None = None  # the role it is being drained for, as written on the pod
    node_goes: bool = False  # its node is cordoned or about to go
    node_dies: bool = False  # a taint says that its node goes soon, whatever we do
    has_no_place: bool = False  # no node takes it, and has not for a while
    has_failed: bool = False  # it is on a node and does not become ready
    trouble: str = ""  # why it is not ready, in the cluster's words


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """What matters of a node."""

    is_cordoned: bool = False
    taints: frozenset[str] = frozenset()  # their keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look at a service."""

    objects: Mapping[Ref, LiveObject] = field(default_factory=dict)
    members: tuple[Member, ...] = ()
    pods: Mapping[str, LiveObject] = field(default_factory=dict)  # worker pods by name
    routers_ready: int = 0
    report: RouterReport = field(default_factory=RouterReport)

    @property
    def workers(self) -> dict[str, WorkerView]:
        """What routers say, by worker."""
        return {worker.worker: worker for worker in self.report.workers}

    def deployments(self) -> list[LiveObject]:
        """The Deployments there are."""
        return [live for ref, live in self.objects.items() if ref.kind is Kind.DEPLOYMENT]


def observation(
    children: Iterable[LiveObject],
    pods: Sequence[LiveObject],
    report: RouterReport,
    *,
    nodes: Mapping[str, NodeView],
    node_taints: Iterable[str],
    progress_deadline_s: float,
    wall_s: float,
) -> Observation:
    """Put one look together; `wall_s` is the time of day, against which pods' ages are counted."""
    workers = {worker.worker: worker for worker in report.workers}
    dying = {name for name, node in nodes.items() if node.taints & set(node_taints)}
    going = dying | {name for name, node in nodes.items() if node.is_cordoned}
    worker_pods = {pod["metadata"]["name"]: pod for pod in pods if _component(pod) == names.COMPONENT_WORKER}
    members = [
        replace(
            member(pod, workers.get(name), progress_deadline_s=progress_deadline_s, wall_s=wall_s),
            node_goes=_node(pod) in going,
            node_dies=_node(pod) in dying,
        )
        for name, pod in sorted(worker_pods.items())
        if not _has_ended(pod)
    ]
    routers = [pod for pod in pods if _component(pod) == names.COMPONENT_ROUTER]
    return Observation(
        objects={ref_of(child): child for child in children},
        members=tuple(members),
        pods=worker_pods,
        routers_ready=sum(is_ready(pod) and not is_deleted(pod) for pod in routers),
        report=report,
    )


def member(pod: LiveObject, worker: WorkerView | None, *, progress_deadline_s: float, wall_s: float) -> Member:
    """One worker pod, with what its router says of it; its node is not looked at."""
    metadata = pod["metadata"]
    annotations = metadata.get("annotations") or {}
    flip = annotations.get(names.ANNOTATION_FLIP_TO)
    stage = _stage(pod, worker)
    age_s = wall_s - _seconds(metadata.get("creationTimestamp"), default=wall_s)
    is_late = age_s > progress_deadline_s or _restarts(pod) >= RESTARTS_MAX
    trouble = _trouble(pod) if stage in {Stage.PENDING, Stage.STARTING} else ""
    return Member(
        pod=metadata["name"],
        pool=metadata["labels"].get(names.LABEL_POOL, ""),
        revision=metadata["labels"].get(names.LABEL_REVISION, ""),
        stage=stage,
        role=worker.role if worker else None,
        fingerprint=worker.fingerprint if worker else "",
        sequences=worker.sequences if worker else 0,
        is_leaving=names.ANNOTATION_LEAVING in annotations,
        flip_to=Role(flip) if flip else None,
        has_no_place=stage is Stage.PENDING and bool(trouble) and age_s > PLACE_S,
        has_failed=stage is Stage.STARTING and is_late,
        trouble=trouble,
    )


def node_view(node: LiveObject) -> NodeView:
    """What matters of a live node."""
    spec = node.get("spec") or {}
    taints = frozenset(taint["key"] for taint in spec.get("taints") or ())
    return NodeView(is_cordoned=bool(spec.get("unschedulable")), taints=taints)


def router_addresses(pods: Iterable[LiveObject]) -> list[str]:
    """Addresses of the routers that run."""
    running = [pod for pod in pods if _component(pod) == names.COMPONENT_ROUTER and not _has_ended(pod)]
    addresses = [(pod.get("status") or {}).get("podIP", "") for pod in running]
    return sorted(address for address in addresses if address)


def is_ready(pod: LiveObject) -> bool:
    """Whether the kubelet says that a pod is ready."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def is_deleted(pod: LiveObject) -> bool:
    """Whether a pod is on its way out."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def _stage(pod: LiveObject, worker: WorkerView | None) -> Stage:
    if is_deleted(pod):
        return Stage.LEAVING
    if not _node(pod):
        return Stage.PENDING
    if worker is None or not is_running(pod):
        return Stage.STARTING
    if worker.lifecycle is Lifecycle.READY and not is_ready(pod):
        return Stage.STARTING  # the kubelet's word counts too: it may be that no client can reach the node
    return _STAGES[worker.lifecycle]


def is_running(pod: LiveObject) -> bool:
    """Whether a pod's containers run."""
    return (pod.get("status") or {}).get("phase") == "Running"


def _component(pod: LiveObject) -> str:
    labels: Mapping[str, str] = pod["metadata"].get("labels") or {}
    return labels.get(names.LABEL_COMPONENT, "")


def _has_ended(pod: LiveObject) -> bool:
    return (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}


def _node(pod: LiveObject) -> str:
    name: str = (pod.get("spec") or {}).get("nodeName", "")
    return name


def _trouble(pod: LiveObject) -> str:
    """What keeps a pod from being ready, as the scheduler or the kubelet put it; empty if neither complains."""
    status = pod.get("status") or {}
    for one in status.get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return f"no node takes it: {one.get('message', one.get('reason', ''))}"
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason", "") not in {"", "ContainerCreating", "PodInitializing"}:
            return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    return ""


def _restarts(pod: LiveObject) -> int:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return max((status.get("restartCount", 0) for status in statuses), default=0)


def _seconds(text: str | None, *, default: float) -> float:
    return datetime.fromisoformat(text).timestamp() if text else default
