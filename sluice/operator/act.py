"""Carries a plan out, action by action, in order. The only place that writes to the cluster or speaks to workers.

Every action may be done twice, and a plan may stop after any of them: the next look finds out what is
left. Decides nothing. Next: `reconcile.py`.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from sluice.errors import SluiceError
from sluice.operator.actions import Action, Apply, Create, Delete, DrainWorker, FlipWorker, Patch, ResumeWorker, Tell
from sluice.operator.cluster import Cluster
from sluice.operator.manifest import KIND_NAMES, Kind, LiveObject, Manifest, digest
from sluice.operator.routers import Routers, WorkerView

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What acting needs."""

    cluster: Cluster
    routers: Routers


async def act(
    actions: Iterable[Action], hands: Hands, *, workers: Mapping[str, WorkerView], about: LiveObject, now: str
) -> None:
    """Do all of it. A worker that cannot be told is told at the next look; a cluster that refuses ends the plan.

    `about` is the ModelService that events are on, `now` the time of day. Raises ClusterApiError.
    """
    for action in actions:
        match action:
            case Create(manifest):
                await hands.cluster.create(manifest)
            case Apply(manifest):
                await hands.cluster.apply(manifest)
            case Patch(ref, change):
                await hands.cluster.patch(ref, change)
            case Delete(ref):
                await hands.cluster.delete(ref)
            case Tell():
                await hands.cluster.create(event(action, about, now=now))
            case DrainWorker() | ResumeWorker() | FlipWorker():
                await _speak(action, hands.routers, workers)
            case _:
                assert_never(action)


async def _speak(
    action: DrainWorker | ResumeWorker | FlipWorker, routers: Routers, workers: Mapping[str, WorkerView]
) -> None:
    worker = workers[action.worker]
    try:
        match action:
            case DrainWorker():
                await routers.drain(worker, deadline_s=action.deadline_s)
            case ResumeWorker():
                await routers.resume(worker)
            case FlipWorker():
                await routers.flip(worker, action.role)
            case _:
                assert_never(action)
    except SluiceError as error:
        log.warning("%s: %s; told again soon", action.worker, error)


def event(tell: Tell, about: LiveObject, *, now: str) -> Manifest:
    """An Event on a ModelService. Its name follows from what it says, so that saying it twice makes one."""
    metadata = about["metadata"]
    mark = digest([metadata["uid"], tell.key, tell.reason])
    return {
        "apiVersion": "v1",
        "kind": KIND_NAMES[Kind.EVENT],
        "metadata": {"name": f"{metadata['name']}.{mark}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "reason": tell.reason,
        "message": tell.message[:1000],
        "type": "Warning" if tell.is_warning else "Normal",
        "source": {"component": "sluice-operator"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
