"""Decides what a ModelService's status says: conditions with reasons a person can act on, pools, links. Pure.

Times of transition are kept while a condition's status stays. Fields that drift (attainment, queue, speeds) are told
apart from facts, so that they are not written with every look. Next: `resources/service_status.py` for the fields.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Literal

from sluice.domain.role import Role
from sluice.operator import names
from sluice.operator.accept import AcceptedService
from sluice.operator.actions import Tell
from sluice.operator.coverage import phases_of, token_phases
from sluice.operator.manifest import LiveObject, Manifest, covers, digest
from sluice.operator.observation import Member, Observation, Stage
from sluice.operator.pool_plan import PoolGoal
from sluice.operator.resources.service_status import Condition, LinkStatus, ModelServiceStatus, PoolStatus
from sluice.operator.service_plan import ServicePlan

LINKS_MAX: Final = 50
DRIFTING: Final = ("attainmentPercent", "dollarsPerMillionTokens", "running", "queued", "moved", "kvFabric")

_BAD: Final = {"Accepted": "False", "Available": "False", "Degraded": "True", "Progressing": "never"}

ConditionType = Literal["Accepted", "Available", "Progressing", "Degraded"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition without its time."""

    status: Literal["True", "False"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was counted lately; None where nothing was."""

    attainment_percent: float | None = None
    dollars_per_million_tokens: float | None = None
    running: int | None = None
    queued: int | None = None
    moved: int | None = None


class Difference(Enum):
    """How a status differs from the one that stands."""

    NONE = auto()
    DRIFT = auto()  # only in fields that always move
    FACTS = auto()


def running_status(
    service: AcceptedService, seen: Observation, plan: ServicePlan, measured: Measured, *, before: LiveObject, now: str
) -> Manifest:
    """The status of a service that was accepted. `before` is the live object, `now` the time of day (RFC 3339)."""
    pools = pool_statuses(plan)
    verdicts: dict[ConditionType, Verdict] = {
        "Accepted": Verdict("True", "SpecAccepted", "the spec can be run"),
        "Available": _available(service, seen, plan),
        "Progressing": _progressing(plan, pools),
        "Degraded": _degraded(service, seen, plan, pools),
    }
    status = ModelServiceStatus(
        observed_generation=service.generation,
        conditions=_conditions(verdicts, before, generation=service.generation, now=now),
        endpoint=f"http://{service.name}.{service.namespace}.svc:{names.PORT_HTTP}/v1",
        workers=f"{sum(pool.ready for pool in pools)}/{sum(pool.desired for pool in pools)}",
        pools=tuple(pools),
        model=service.model_mark,
        revision=plan.revision,
        failed_revisions=plan.failed_revisions,
        attainment_percent=measured.attainment_percent,
        dollars_per_million_tokens=measured.dollars_per_million_tokens,
        running=measured.running,
        queued=measured.queued,
        moved=measured.moved,
        kv_fabric=_links(seen),
    )
    return status_manifest(before, status)


def refused_status(before: LiveObject, why: str, *, now: str) -> Manifest:
    """The status of a service whose spec cannot be run; what runs of an earlier one is left alone."""
    generation = before["metadata"].get("generation", 1)
    old = before.get("status") or {}
    verdicts: dict[ConditionType, Verdict] = {"Accepted": Verdict("False", "SpecRefused", why)}
    conditions = [
        one.model_dump(by_alias=True) for one in _conditions(verdicts, before, generation=generation, now=now)
    ]
    kept = [one for one in old.get("conditions") or () if one["type"] != "Accepted"]
    return {
        **_identity(before),
        "status": {**old, "observedGeneration": generation, "conditions": [*conditions, *kept]},
    }


def pool_statuses(plan: ServicePlan) -> list[PoolStatus]:
    """Every pool's numbers, in the order of their goals."""
    return [_pool(goal, plan) for goal in plan.goals]


def status_manifest(before: LiveObject, status: ModelServiceStatus) -> Manifest:
    """The manifest that applies a status."""
    return {**_identity(before), "status": status.model_dump(mode="json", by_alias=True, exclude_none=True)}


def difference(before: LiveObject, manifest: Manifest) -> Difference:
    """How the status to be written differs from the one that stands."""
    old, new = before.get("status") or {}, manifest["status"]
    if covers(old, new) and covers(new, old):
        return Difference.NONE
    facts_old = {key: value for key, value in old.items() if key not in DRIFTING}
    facts_new = {key: value for key, value in new.items() if key not in DRIFTING}
    same = covers(facts_old, facts_new) and covers(facts_new, facts_old)
    return Difference.DRIFT if same else Difference.FACTS


def news(before: LiveObject, manifest: Manifest) -> list[Tell]:
    """Events for what has changed: one for each condition with another status or reason."""
    old = {one["type"]: one for one in (before.get("status") or {}).get("conditions") or ()}
    told = []
    for one in manifest["status"]["conditions"]:
        earlier = old.get(one["type"], {})
        if (earlier.get("status"), earlier.get("reason")) == (one["status"], one["reason"]):
            continue
        if not earlier and one["type"] == "Degraded" and one["status"] == "False":
            continue  # good news about nothing
        was_good = one["type"] != "Available" or earlier.get("status") == "True"
        is_bad = was_good and one["status"] == _BAD[one["type"]]
        key = f"{one['type']} {one['status']} {one['reason']} {earlier.get('lastTransitionTime', '')}"
        told.append(Tell(key=digest(key), reason=one["reason"], message=one["message"], is_warning=is_bad))
    return told


def pool_manifest(live: LiveObject, pool: PoolStatus, *, selector: dict[str, str]) -> Manifest:
    """The status of a WorkerPool, for `kubectl` and autoscalers."""
    return {
        **_identity(live),
        "status": {
            "replicas": pool.ready + pool.starting + pool.draining + pool.drained,
            "readyReplicas": pool.ready,
            "drainingReplicas": pool.draining,
            "selector": ",".join(f"{key}={value}" for key, value in sorted(selector.items())),
        },
    }


def _identity(live: LiveObject) -> Manifest:
    metadata = live["metadata"]
    return {
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
    }


def _conditions(
    verdicts: dict[ConditionType, Verdict], before: LiveObject, *, generation: int, now: str
) -> tuple[Condition, ...]:
    old = {one["type"]: one for one in (before.get("status") or {}).get("conditions") or ()}
    conditions = []
    for kind, verdict in verdicts.items():
        earlier = old.get(kind, {})
        since = earlier["lastTransitionTime"] if earlier.get("status") == verdict.status else now
        conditions.append(
            Condition(
                type=kind,
                status=verdict.status,
                reason=verdict.reason,
                message=verdict.message,
                observed_generation=generation,
                last_transition_time=since,
            )
        )
    return tuple(conditions)


def _pool(goal: PoolGoal, plan: ServicePlan) -> PoolStatus:
    own = [one for one in plan.members if one.pool == goal.name]
    works = [one for one in plan.members if one.stage is Stage.READY and _works_for(one, goal, plan)]

    def count(*stages: Stage) -> int:
        return sum(one.stage in stages for one in own)

    return PoolStatus(
        name=goal.name,
        role=goal.role.value,
        desired=goal.replicas,
        ready=len(works),
        starting=count(Stage.PENDING, Stage.STARTING),
        draining=count(Stage.DRAINING),
        drained=count(Stage.DRAINED),
        lent=sum(one.stage is Stage.READY and not _works_for(one, goal, plan) for one in own),
        outdated=sum(one.revision != goal.revision for one in own if one.stage is not Stage.LEAVING),
    )


def _works_for(member: Member, goal: PoolGoal, plan: ServicePlan) -> bool:
    """Whether a ready worker counts for this pool: its own pool's role or mixed at home, another role abroad."""
    home = next((one for one in plan.goals if one.name == member.pool), None)
    if home is None or member.role in {home.role, Role.MIXED, None}:
        return member.pool == goal.name
    target = next((one for one in plan.goals if one.role is member.role and one.kin == home.kin), home)
    return target.name == goal.name


def _available(service: AcceptedService, seen: Observation, plan: ServicePlan) -> Verdict:
    ready = [one for one in plan.members if one.stage is Stage.READY]
    wanted = token_phases(goal.role for goal in plan.goals if goal.replicas)
    missing = sorted(role.value for role in wanted - phases_of(ready))
    if not wanted and service.may_sleep and seen.routers_ready:
        return Verdict("True", "Asleep", "nobody asks, so no worker runs; the next request is held until one does")
    if not wanted:
        return Verdict("False", "ScaledToZero", "no worker is wanted now; scale a WorkerPool up")
    if not seen.routers_ready and not missing:
        return Verdict("False", "NoRouterReady", "no router pod is ready; see `kubectl describe pod` of the routers")
    if missing:
        why = _trouble(plan.members) or "workers are starting"
        return Verdict("False", "NoWorkerReady", f"no ready worker admits {' or '.join(missing)}: {why}")
    return Verdict("True", "Serving", f"{len(ready)} workers and {seen.routers_ready} routers serve")


def _progressing(plan: ServicePlan, pools: Sequence[PoolStatus]) -> Verdict:
    if any(pool.outdated for pool in pools):
        left = sum(pool.outdated for pool in pools)
        return Verdict("True", "RollingOut", f"{left} workers of an earlier revision are left; {_waits(plan)}")
    if plan.steps.waits:
        return Verdict("True", "Moving", _waits(plan))
    short = [pool.name for pool in pools if pool.ready != pool.desired]
    if short:
        return Verdict("True", "Scaling", f"pools {', '.join(short)} do not have their wanted size yet")
    return Verdict("False", "Settled", "everything is as the spec asks")


def _waits(plan: ServicePlan) -> str:
    return "; ".join(plan.steps.waits) or "the next step follows"


def _degraded(service: AcceptedService, seen: Observation, plan: ServicePlan, pools: Sequence[PoolStatus]) -> Verdict:
    if plan.failed_revisions:
        why = _trouble(plan.members) or "its workers did not become ready"
        message = f"revision {', '.join(plan.failed_revisions)} was taken back ({why}); change the spec to try again"
        return Verdict("True", "RolloutTakenBack", message)
    troubled = _trouble(plan.members)
    if troubled:
        return Verdict("True", "WorkersDoNotStart", troubled)
    if seen.routers_ready < service.spec.routers.replicas and any(pool.ready for pool in pools):
        wanted = service.spec.routers.replicas
        return Verdict("True", "RoutersMissing", f"{seen.routers_ready} of {wanted} routers are ready")
    return Verdict("False", "AsWanted", "nothing is missing that has been asked for")


def _trouble(members: Iterable[Member]) -> str:
    """The first complaint of the cluster about a worker pod."""
    return next((f"{one.pod}: {one.trouble}" for one in members if one.trouble), "")


def _links(seen: Observation) -> tuple[LinkStatus, ...]:
    links = [(worker.worker, link) for worker in seen.report.workers for link in worker.load.links]
    links.sort(key=lambda pair: (pair[1].gb_per_s, pair[0], pair[1].peer))
    return tuple(
        LinkStatus(
            from_worker=sender,
            to=link.peer,
            # Old servers take an applied "" for null: a link that has never agreed on one must say so.
            transport=link.transport or "none",
            gb_per_s=float(f"{link.gb_per_s:.2g}"),
            failed=link.failed,
            last_error=link.last_error[:200] or None,
        )
        for sender, link in links[:LINKS_MAX]
    )
