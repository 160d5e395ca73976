"""Decides how many pods each Deployment of a pool should have now, so that exactly the emptied ones go. Pure.

A ReplicaSet that shrinks removes pods without a node first, then those that are not ready, then the others. An
emptied worker is not ready, so it goes first, unless another one starts at the same time; then
it is deleted by name instead, and its replacement, which has no node yet, goes when the number falls.
Next: `pool_plan.py` for who leaves.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sluice.operator.observation import Member, Stage
from sluice.operator.pool_plan import PoolGoal, Rules

GONE_WHEN: frozenset[Stage] = frozenset({Stage.PENDING, Stage.STARTING, Stage.DRAINED})
"""A leaver in one of these holds no request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Wanted pod counts by (pool, revision), and pods to delete by name."""

    replicas: Mapping[tuple[str, str], int]
    delete: tuple[str, ...]


def sizes(goals: Sequence[PoolGoal], members: Iterable[Member], rules: Rules, *, lent: Mapping[str, int]) -> Sizes:
    """Sizes of all Deployments. `members` carry every mark made; `lent` is workers lent out minus borrowed, by pool."""
    by_revision: dict[tuple[str, str], list[Member]] = defaultdict(list)
    for member in members:
        if member.stage is not Stage.LEAVING:
            by_revision[member.pool, member.revision].append(member)
    for goal in goals:
        by_revision.setdefault((goal.name, goal.revision), [])
    counts: dict[tuple[str, str], int] = {}
    delete: list[str] = []
    for key, group in by_revision.items():
        gone = [one for one in group if one.is_leaving and one.stage in GONE_WHEN]
        bystanders = [one for one in group if not one.is_leaving and one.stage in GONE_WHEN]
        if bystanders and any(one.stage is not Stage.PENDING for one in gone):
            delete += [one.pod for one in gone if one.stage is not Stage.PENDING]
            counts[key] = len(group)
        else:
            counts[key] = len(group) - len(gone)
    for goal in goals:
        counts[goal.name, goal.revision] += _missing(goal, by_revision, rules, lent=lent.get(goal.name, 0))
    return Sizes(replicas=counts, delete=tuple(sorted(delete)))


def _missing(
    goal: PoolGoal, by_revision: Mapping[tuple[str, str], Sequence[Member]], rules: Rules, *, lent: int
) -> int:
    """Pods to add: what is wanted, less what is there and stays, less what still holds its place while it empties."""
    own = [one for (pool, _), group in by_revision.items() if pool == goal.name for one in group]
    holding = [one for one in own if not one.node_goes and not (one.is_leaving and one.stage in GONE_WHEN)]
    is_rolling = any(one.revision != goal.revision and not one.is_leaving for one in own)
    return max(0, goal.replicas + lent + (rules.surge if is_rolling else 0) - len(holding))
