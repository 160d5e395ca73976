"""Decides everything about one service in one look: what to apply, what to delete, which workers to move. Pure.

Called again and again; a plan of what is already so is empty. Never remembers: what must outlive a
crash stands on the objects. Next: `pool_plan.py` for pods, `status.py` for what is answered, `act.py` for doing it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sluice.config.operator import OperatorConfig
from sluice.domain.role import Role
from sluice.operator import names, pool_plan, pool_sizes
from sluice.operator.accept import AcceptedPool, AcceptedService
from sluice.operator.actions import Action, Apply, Create, Delete, DrainWorker, FlipWorker, Patch, ResumeWorker, Tell
from sluice.operator.builders.guards import BudgetKind
from sluice.operator.builders.service_objects import owned, service_objects, worker_pool
from sluice.operator.builders.worker_workload import (
    PoolTemplate,
    pool_template,
    worker_config_map,
    worker_deployment,
)
from sluice.operator.manifest import Kind, LiveObject, Manifest, Ref, covers, digest, marked, ref_of
from sluice.operator.observation import Member, Observation, Stage
from sluice.operator.pool_plan import PoolGoal, PoolSteps, Rules
from sluice.operator.pool_sizes import Sizes
from sluice.operator.routers import WorkerView

LEAVING_COST = "-1000"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlan:
    """What to do now, in this order, and what the status says of it."""

    actions: tuple[Action, ...]
    goals: tuple[PoolGoal, ...]
    steps: PoolSteps
    members: tuple[Member, ...]  # with every new mark on them
    failed_revisions: tuple[str, ...]
    revision: str

    @property
    def is_settled(self) -> bool:
        """Whether nothing is under way that will need another look soon."""
        unready = any(member.stage is not Stage.READY for member in self.members)
        missing = sum(goal.replicas for goal in self.goals) > len(self.members)
        return not self.actions and self.steps.is_idle and not unready and not missing


def service_plan(
    service: AcceptedService,
    seen: Observation,
    config: OperatorConfig,
    *,
    wanted: Mapping[str, int],
    budget: BudgetKind,
    failed_before: Iterable[str],
) -> ServicePlan:
    """One look, one plan. `wanted` are the pools' sizes; `failed_before` revisions that were taken back."""
    templates = {pool.name: pool_template(service, pool, config) for pool in service.pools}
    failed = failed_revisions(templates, seen.members, failed_before)
    goals = tuple(_goal(pool, templates[pool.name], seen, wanted=wanted, failed=failed) for pool in service.pools)
    scaling = service.spec.scaling
    rules = Rules(surge=service.spec.rollout.surge, lends=scaling is not None and scaling.flips)
    steps, members = pool_plan.next_steps(goals, seen.members, rules)
    sizes = pool_sizes.sizes(goals, members, rules, lent=pool_plan.lent(goals, members, rules))
    manifests = _manifests(service, templates, config, goals=goals, sizes=sizes, wanted=wanted, budget=budget)
    actions: list[Action] = [
        *_missing_pools(service, seen, wanted),
        # Marks before sizes: a pod that shrinking may take must say that it is the one.
        *_marks(service, seen, steps),
        *_labels(service, seen),
        *_words(service, seen, steps),
        *(Apply(one) for one in manifests if not _stands(seen, one)),
        *_resizes(service, seen, manifests, sizes),
        *(Delete(Ref(Kind.POD, service.namespace, pod)) for pod in sizes.delete),
        *_leftovers(service, seen, manifests),
    ]
    revision = digest(sorted(template.revision for template in templates.values()), chars=names.REVISION_CHARS)
    return ServicePlan(
        actions=tuple(actions),
        goals=goals,
        steps=steps,
        members=members,
        failed_revisions=failed,
        revision=revision,
    )


def failed_revisions(
    templates: Mapping[str, PoolTemplate], members: Sequence[Member], before: Iterable[str]
) -> tuple[str, ...]:
    """Revisions whose workers do not become ready; forgotten when the template is another one."""
    current = {f"{name}-{template.revision}" for name, template in templates.items()}
    now = {f"{member.pool}-{member.revision}" for member in members if member.has_failed}
    return tuple(sorted(current & (now | set(before))))


def _goal(
    pool: AcceptedPool,
    template: PoolTemplate,
    seen: Observation,
    *,
    wanted: Mapping[str, int],
    failed: Sequence[str],
) -> PoolGoal:
    revision = template.revision
    if f"{pool.name}-{revision}" in failed:
        earlier = [one.revision for one in seen.members if one.pool == pool.name and one.revision != revision]
        # Without a worker of an earlier revision there is nothing to go back to.
        revision = max(set(earlier), key=lambda one: (earlier.count(one), one), default=revision)
    return PoolGoal(
        name=pool.name, role=Role(pool.role), replicas=wanted[pool.name], revision=revision, kin=kin_of(pool)
    )


def kin_of(pool: AcceptedPool) -> str:
    """Equal for pools whose workers could do each other's work: the same GPUs, the same resources."""
    return digest([[one.name for one in pool.classes], pool.spec.resources.model_dump(mode="json")])


def _manifests(
    service: AcceptedService,
    templates: Mapping[str, PoolTemplate],
    config: OperatorConfig,
    *,
    goals: Sequence[PoolGoal],
    sizes: Sizes,
    wanted: Mapping[str, int],
    budget: BudgetKind,
) -> list[Manifest]:
    """Every manifest that should stand, marked with its own hash."""
    built = service_objects(service, config, replicas=wanted, budget=budget)
    for goal in goals:
        template = templates[goal.name]
        if goal.revision == template.revision:
            built.append(owned(service, worker_config_map(service, template)))
            replicas = sizes.replicas[goal.name, goal.revision]
            built.append(owned(service, worker_deployment(service, template, replicas=replicas)))
    return [marked(one) for one in built]


def _stands(seen: Observation, manifest: Manifest) -> bool:
    live = seen.objects.get(ref_of(manifest))
    return live is not None and covers(live, manifest)


def _missing_pools(service: AcceptedService, seen: Observation, wanted: Mapping[str, int]) -> list[Action]:
    actions: list[Action] = []
    for pool in service.pools:
        manifest = worker_pool(service, pool, replicas=wanted[pool.name])
        if ref_of(manifest) not in seen.objects:
            actions.append(Create(manifest))
    return actions


def _marks(service: AcceptedService, seen: Observation, steps: PoolSteps) -> list[Action]:
    """What is written on pods: who leaves, who may stay after all, who is emptied for another role."""
    actions: list[Action] = []
    for one in steps.mark:
        cost = {names.ANNOTATION_LEAVING: one.why, names.ANNOTATION_DELETION_COST: LEAVING_COST}
        actions.append(_annotate(service, one.pod, cost))
        actions.append(
            Tell(key=f"leaving {_uid(seen, one.pod)}", reason="WorkerLeaves", message=f"{one.pod} leaves: {one.why}")
        )
    stays = {names.ANNOTATION_LEAVING: None, names.ANNOTATION_DELETION_COST: None}
    actions += [_annotate(service, pod, stays) for pod in steps.unmark]
    for flip in steps.flips:
        if flip.drains and _annotation(seen, flip.pod, names.ANNOTATION_FLIP_TO) != flip.role.value:
            actions.append(_annotate(service, flip.pod, {names.ANNOTATION_FLIP_TO: flip.role.value}))
            message = f"{flip.pod} becomes {flip.role.value}: {flip.why}"
            key = f"flip {_uid(seen, flip.pod)} {flip.role.value}"
            actions.append(Tell(key=key, reason="WorkerFlips", message=message))
    return actions


def _labels(service: AcceptedService, seen: Observation) -> list[Action]:
    """What routers say of workers, on the pods: role, state, fingerprint, safe to delete."""
    actions: list[Action] = []
    workers = seen.workers
    for name, pod in seen.pods.items():
        worker = workers.get(name)
        if worker is None:
            continue
        metadata = pod["metadata"]
        change: Manifest = {}
        labels = worker_labels(worker)
        if not covers(metadata.get("labels") or {}, labels):
            change["labels"] = labels
        safe = "true" if worker.lifecycle.value == Stage.DRAINED.value else None
        if (metadata.get("annotations") or {}).get(names.ANNOTATION_SAFE_TO_DELETE) != safe:
            change["annotations"] = {names.ANNOTATION_SAFE_TO_DELETE: safe}
        if change:
            actions.append(Patch(Ref(Kind.POD, service.namespace, name), {"metadata": change}))
    return actions


def worker_labels(worker: WorkerView) -> dict[str, str]:
    """Labels that follow a worker's state."""
    return {
        names.LABEL_ROLE: worker.role.value,
        names.LABEL_LIFECYCLE: worker.lifecycle.value,
        names.LABEL_FINGERPRINT: worker.fingerprint[:63].strip("-_."),
    }


def _words(service: AcceptedService, seen: Observation, steps: PoolSteps) -> list[Action]:
    """What workers are told. A telling that is lost is told again at the next look."""
    deadline_s = service.spec.drain.deadline_s
    known = seen.workers
    actions: list[Action] = [ResumeWorker(pod) for pod in steps.resume if pod in known]
    actions += [DrainWorker(pod, deadline_s) for pod in steps.drain if pod in known]
    for flip in steps.flips:
        if flip.pod not in known:
            continue
        if flip.drains:
            actions.append(DrainWorker(flip.pod, deadline_s))
            continue
        actions.append(FlipWorker(flip.pod, flip.role))
        if _annotation(seen, flip.pod, names.ANNOTATION_FLIP_TO):
            actions.append(_annotate(service, flip.pod, {names.ANNOTATION_FLIP_TO: None}))
    return actions


def _resizes(service: AcceptedService, seen: Observation, manifests: Iterable[Manifest], sizes: Sizes) -> list[Action]:
    """Sizes of Deployments whose template is no longer the wanted one: nothing else of them is touched."""
    applied = {ref_of(one) for one in manifests}
    actions: list[Action] = []
    for live in seen.deployments():
        ref = ref_of(live)
        labels = live["metadata"].get("labels") or {}
        if ref in applied or labels.get(names.LABEL_COMPONENT) != names.COMPONENT_WORKER:
            continue
        size = sizes.replicas.get((labels[names.LABEL_POOL], labels[names.LABEL_REVISION]), 0)
        if live["spec"].get("replicas") != size:
            actions.append(Patch(ref, {"spec": {"replicas": size}}))
    assert all(ref.namespace == service.namespace for ref in applied)
    return actions


def _leftovers(service: AcceptedService, seen: Observation, manifests: Iterable[Manifest]) -> list[Action]:
    """Objects of this service that nothing wants any more: empty old Deployments, their settings, removed pools."""
    wanted = {ref_of(one) for one in manifests} | {
        Ref(Kind.WORKER_POOL, service.namespace, names.pool_name(service.name, pool.name)) for pool in service.pools
    }
    used = {
        names.workload_name(service.name, pod["metadata"]["labels"][names.LABEL_POOL], revision)
        for pod in seen.pods.values()
        if (revision := pod["metadata"]["labels"].get(names.LABEL_REVISION))
    }
    actions: list[Action] = []
    for ref, live in sorted(seen.objects.items(), key=lambda item: (item[0].kind.name, item[0].name)):
        if ref in wanted or not _is_ours(live, service):
            continue
        is_old_workload = names.LABEL_REVISION in (live["metadata"].get("labels") or {})
        if is_old_workload and (ref.name in used or _replicas_of(seen, ref) > 0):
            continue
        actions.append(Delete(ref))
    return actions


def _replicas_of(seen: Observation, ref: Ref) -> int:
    """Pods that the Deployment of this name asks for."""
    live = seen.objects.get(Ref(Kind.DEPLOYMENT, ref.namespace, ref.name))
    replicas: int = live["spec"].get("replicas", 1) if live is not None else 0
    return replicas


def _is_ours(live: LiveObject, service: AcceptedService) -> bool:
    return any(owner.get("uid") == service.uid for owner in live["metadata"].get("ownerReferences") or ())


def _annotate(service: AcceptedService, pod: str, annotations: Mapping[str, str | None]) -> Patch:
    return Patch(Ref(Kind.POD, service.namespace, pod), {"metadata": {"annotations": dict(annotations)}})


def _annotation(seen: Observation, pod: str, name: str) -> str:
    live = seen.pods.get(pod)
    annotations: Mapping[str, str] = (live["metadata"].get("annotations") or {}) if live is not None else {}
    return annotations.get(name, "")


def _uid(seen: Observation, pod: str) -> str:
    live = seen.pods.get(pod)
    return live["metadata"].get("uid", pod) if live is not None else pod
