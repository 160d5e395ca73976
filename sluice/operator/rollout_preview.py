"""Plays a rollout through on paper: the pure planner, asked again and again in a world where every step succeeds.

What `sluice rollout plan` prints. No cluster, no clock: a step is a line, and the planner is the one the operator
runs. Next: `pool_plan.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

from sluice.domain.role import Role
from sluice.operator import pool_plan, pool_sizes
from sluice.operator.observation import Member, Stage
from sluice.operator.pool_plan import PoolGoal, Rules

STEPS_MAX: Final = 10_000
OLD, NEW = "old", "new"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewStep:
    """One line of a rollout: what is done, and who serves meanwhile."""

    number: int
    does: tuple[str, ...]
    ready: dict[str, int]  # workers that admit each phase, while the step is under way
    places: int  # pods that hold a place


def preview(pools: Sequence[tuple[str, Role, int]], rules: Rules) -> Iterator[PreviewStep]:
    """The steps that replace every worker of these (name, role, replicas) pools."""
    goals = [PoolGoal(name=name, role=role, replicas=size, revision=NEW) for name, role, size in pools]
    members = [
        Member(pod=f"{name}-{index}", pool=name, revision=OLD, stage=Stage.READY, role=role)
        for name, role, size in pools
        for index in range(size)
    ]
    names = count(1)
    for number in range(1, STEPS_MAX):
        steps, marked = pool_plan.next_steps(goals, members, rules)
        sizes = pool_sizes.sizes(goals, marked, rules, lent={})
        members, does = _done(goals, marked, steps, sizes, names)
        if not does:
            return
        yield PreviewStep(number=number, does=tuple(does), ready=_ready(members), places=len(members))


def _done(
    goals: Sequence[PoolGoal],
    members: Sequence[Member],
    steps: pool_plan.PoolSteps,
    sizes: pool_sizes.Sizes,
    names: "count[int]",
) -> tuple[list[Member], list[str]]:
    """The world after one step in which everybody does at once what he is told."""
    does = [f"flip {flip.pod} to {flip.role.value}: {flip.why}" for flip in steps.flips]
    after = {member.pod: member for member in members}
    for flip in steps.flips:
        after[flip.pod] = replace(after[flip.pod], role=flip.role, flip_to=None)
    does += [f"drain {leaving.pod}: {leaving.why}" for leaving in steps.mark]
    for member in list(after.values()):
        if member.is_leaving and member.stage is Stage.READY:
            after[member.pod] = replace(member, stage=Stage.DRAINED)
        elif member.is_leaving and member.stage is Stage.DRAINED:
            del after[member.pod]
            does.append(f"remove {member.pod}: it is drained")
        elif member.stage is Stage.STARTING:
            after[member.pod] = replace(member, stage=Stage.READY, role=_role(goals, member.pool))
            does.append(f"wait until {member.pod} is ready: it has passed its canary")
    for goal in goals:
        own = [one for one in after.values() if one.pool == goal.name]
        new = sum(one.revision == goal.revision for one in own)
        for _ in range(sizes.replicas[goal.name, goal.revision] - new):
            pod = f"{goal.name}-new-{next(names)}"
            after[pod] = Member(pod=pod, pool=goal.name, revision=goal.revision, stage=Stage.STARTING)
            does.append(f"start {pod}")
    return list(after.values()), does


def _role(goals: Sequence[PoolGoal], pool: str) -> Role:
    return next(goal.role for goal in goals if goal.name == pool)


def _ready(members: Sequence[Member]) -> dict[str, int]:
    ready = [one for one in members if one.stage is Stage.READY]
    return {phase.value: sum(one.role in {phase, Role.MIXED} for one in ready) for phase in (Role.PREFILL, Role.DECODE)}
