"""One service, one look: parse, observe, plan, act, answer. Every event and every timer ends here.

Level-triggered: it does not matter what has happened, only what is there. What it remembers between looks
(counts for attainment, how long a pool has been short) may be lost at any time.
Next: `service_plan.py`, who decides; `handlers.py`, who calls.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sluice.clock import Clock
from sluice.config.operator import OperatorConfig
from sluice.errors import RefusedSpecError
from sluice.operator import names, status
from sluice.operator.accept import AcceptedService, accept, gpu_classes
from sluice.operator.act import Hands, act
from sluice.operator.actions import Action, Patch
from sluice.operator.builders.guards import BudgetKind
from sluice.operator.look import look
from sluice.operator.manifest import Kind, LiveObject, Manifest, Ref, covers, timestamp
from sluice.operator.observation import NodeView, Observation
from sluice.operator.service_memory import ServiceMemory
from sluice.operator.service_plan import ServicePlan, service_plan

DRIFT_EVERY_S: Final = 15.0
"""Fields of the status that always move are written at most so often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every look needs and none owns."""

    hands: Hands
    clock: Clock
    wall_s: Callable[[], float]  # the time of day, for what is written into objects
    config: OperatorConfig
    budget: BudgetKind
    nodes: Mapping[str, NodeView]
    memories: dict[Ref, ServiceMemory] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """A look is over; `again_s` says when the next one is due, None: only when something happens."""

    again_s: float | None


async def reconcile(ref: Ref, around: Surroundings) -> Done:
    """Bring one service a step closer to its spec. Raises ClusterApiError; then it is simply tried again."""
    cluster = around.hands.cluster
    body = await cluster.get(ref)
    if body is None or body["metadata"].get("deletionTimestamp"):
        # What it owned goes with it: the cluster's own garbage collection sees to that, workers drain as they stop.
        around.memories.pop(ref, None)
        return Done(None)
    classes, _ = gpu_classes(await cluster.find(Kind.GPU_CLASS))
    now = timestamp(around.wall_s())
    try:
        service = accept(body, classes)
    except RefusedSpecError as error:
        await _answer(status.refused_status(body, str(error), now=now), body, around, now=now)
        return Done(around.config.resync_s)
    seen = await look(
        service,
        cluster,
        around.hands.routers,
        budget=around.budget,
        nodes=around.nodes,
        wall_s=around.wall_s(),
    )
    memory = around.memories.setdefault(ref, ServiceMemory())
    wanted, resizes = _wanted(service, seen, memory, around)
    old = body.get("status") or {}
    plan = service_plan(
        service,
        seen,
        around.config,
        wanted=wanted,
        budget=around.budget,
        failed_before=old.get("failedRevisions") or (),
    )
    await act((*resizes, *plan.actions), around.hands, workers=seen.workers, about=body, now=now)
    await _answer_all(service, seen, plan, memory=memory, body=body, around=around, now=now)
    return Done(_again_s(service, plan, around.config))


def _again_s(service: AcceptedService, plan: ServicePlan, config: OperatorConfig) -> float:
    """When to look again though nothing has happened that is watched."""
    if not plan.steps.is_idle:
        return config.watch_s
    asleep = service.may_sleep and not all(goal.replicas for goal in plan.goals)
    scaled = service.spec.scaling is not None
    sooner_s = config.asleep_s if asleep else config.scaling_s if scaled else config.resync_s
    return min(sooner_s, config.resync_s if plan.is_settled else config.settle_s)


def _wanted(
    service: AcceptedService, seen: Observation, memory: ServiceMemory, around: Surroundings
) -> tuple[dict[str, int], list[Action]]:
    """Every pool's size: as its WorkerPool says, within bounds; and what the platform's own scaling changes of it."""
    asked: dict[str, int] = {}
    for pool in service.pools:
        live = seen.objects.get(pool_ref(service, pool.name))
        bounds = pool.spec.replicas
        size = live["spec"].get("replicas", bounds.min) if live is not None else bounds.min
        asked[pool.name] = min(max(size, bounds.min), bounds.top)
    wanted = memory.scale(service, seen, asked, now_s=around.clock.now_s())
    changes: list[Action] = [
        Patch(pool_ref(service, name), {"spec": {"replicas": size}})
        for name, size in wanted.items()
        if size != asked[name] and pool_ref(service, name) in seen.objects
    ]
    return wanted, changes


def pool_ref(service: AcceptedService, pool: str) -> Ref:
    """Where a pool's WorkerPool is."""
    return Ref(Kind.WORKER_POOL, service.namespace, names.pool_name(service.name, pool))


async def _answer_all(
    service: AcceptedService,
    seen: Observation,
    plan: ServicePlan,
    *,
    memory: ServiceMemory,
    body: LiveObject,
    around: Surroundings,
    now: str,
) -> None:
    """The status of the service and of its pools, where they differ from what stands."""
    measured = memory.measure(service, seen, now_s=around.clock.now_s())
    manifest = status.running_status(service, seen, plan, measured, before=body, now=now)
    match status.difference(body, manifest):
        case status.Difference.FACTS:
            await _answer(manifest, body, around, now=now)
        case status.Difference.DRIFT if memory.may_write_drift(around.clock.now_s(), every_s=DRIFT_EVERY_S):
            await around.hands.cluster.apply_status(manifest)
        case status.Difference.DRIFT | status.Difference.NONE:
            pass
    for pool in status.pool_statuses(plan):
        live = seen.objects.get(pool_ref(service, pool.name))
        if live is None:
            continue
        answer = status.pool_manifest(live, pool, selector=names.pool_selector(service.name, pool.name))
        if not covers(live.get("status") or {}, answer["status"]):
            await around.hands.cluster.apply_status(answer)


async def _answer(manifest: Manifest, body: LiveObject, around: Surroundings, *, now: str) -> None:
    """Events first: a crash between the two tells them again under the same names."""
    if status.difference(body, manifest) is status.Difference.NONE:
        return
    await act(status.news(body, manifest), around.hands, workers={}, about=body, now=now)
    await around.hands.cluster.apply_status(manifest)
