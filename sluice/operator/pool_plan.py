"""Decides the next step of every pool: how many pods of which revision, who leaves, who changes its role. Pure.

The step follows from what is there and what is wanted, and from nothing remembered, so it can be taken
again after a crash at any line. A worker leaves in this order:

    READY --marked--> DRAINING (requests move away) --> DRAINED --the Deployment shrinks--> gone

Scaling, rollout and emptying a node are the same three steps for different reasons. Never lets the last worker
of a phase go while another could take over; never takes more pods than wanted unless asked to surge.
Next: `coverage.py` for who may go, `pool_sizes.py` for the Deployments, `service_plan.py` for the rest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from sluice.domain.role import Role
from sluice.operator.coverage import PHASES, Alone, Covered, NeedsHelp, may_go, phases_of, token_phases
from sluice.operator.observation import SERVING, Member, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolGoal:
    """What is wanted of a pool."""

    name: str
    role: Role
    replicas: int
    revision: str  # the pod template its workers should have
    kin: str = ""  # pools of equal kin may lend workers to each other


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How pools may be changed."""

    surge: int = 0  # pods beyond the wanted number during a rollout
    lends: bool = False  # whether a worker's role is changed before a pod is started


@dataclass(frozen=True, slots=True)
class Leaving:
    """A worker is to go, and why."""

    pod: str
    why: str


@dataclass(frozen=True, slots=True)
class Flip:
    """A worker is to take another role, and why. `drains`: it must be emptied first."""

    pod: str
    role: Role
    why: str
    drains: bool


@dataclass(slots=True)
class PoolSteps:
    """What to do next. Lists are in the order of decision."""

    mark: list[Leaving] = field(default_factory=list)
    unmark: list[str] = field(default_factory=list)
    drain: list[str] = field(default_factory=list)
    resume: list[str] = field(default_factory=list)
    flips: list[Flip] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)  # what the next step waits for, in words

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be done and nothing waited for."""
        return not (self.mark or self.unmark or self.drain or self.resume or self.flips or self.waits)


def next_steps(
    goals: Sequence[PoolGoal], members: Iterable[Member], rules: Rules
) -> tuple[PoolSteps, tuple[Member, ...]]:
    """The steps to take now, and the members as they are with every new mark on them."""
    desk = _Desk(goals, members, rules)
    desk.keep_what_is_needed()
    desk.lend()
    desk.choose_leavers()
    desk.drain_leavers()
    desk.go_home()
    return desk.steps, tuple(desk.members.values())


class _Desk:
    """The members, and what has been decided about them so far."""

    def __init__(self, goals: Sequence[PoolGoal], members: Iterable[Member], rules: Rules) -> None:
        self.goals = {goal.name: goal for goal in goals}
        self.members = {member.pod: member for member in members}
        self.rules = rules
        self.steps = PoolSteps()
        self.flipped: set[str] = set()

    # ------------------------------------------------------------ counting

    def of(self, pool: str) -> list[Member]:
        """The pool's own members that are not being deleted."""
        return [one for one in self.members.values() if one.pool == pool and one.stage is not Stage.LEAVING]

    def kept(self, pool: str) -> list[Member]:
        return [one for one in self.of(pool) if not one.is_leaving]

    def lent_to(self, member: Member) -> PoolGoal | None:
        """The pool a kept member works for instead of its own."""
        goal = self.goals.get(member.pool)
        role = member.flip_to or member.role
        if not self.rules.lends or goal is None or role in {None, goal.role, Role.MIXED}:
            return None
        return next((one for one in self.goals.values() if one.role is role and one.kin == goal.kin), None)

    def strength(self, pool: str) -> int:
        """Workers that count for a pool: its own that are not lent, and those lent to it."""
        own = [one for one in self.kept(pool) if self.lent_to(one) is None and not one.node_goes]
        borrowed = [
            one
            for other in self.goals
            if other != pool
            for one in self.kept(other)
            if (lender := self.lent_to(one)) is not None and lender.name == pool
        ]
        return len(own) + len(borrowed)

    def outdated(self, goal: PoolGoal) -> list[Member]:
        return [one for one in self.kept(goal.name) if one.revision != goal.revision]

    def wanted(self, goal: PoolGoal) -> int:
        """How many may be there now."""
        return goal.replicas + (self.rules.surge if self.outdated(goal) else 0)

    def staying(self) -> list[Member]:
        """Members on which nothing has been decided that takes them away."""
        return [one for one in self.members.values() if not one.is_leaving and one.pod not in self.flipped]

    # ------------------------------------------------------------ deciding

    def keep_what_is_needed(self) -> None:
        """A pool that is short keeps workers that were to leave, the most useful first."""
        usefulness = [Stage.READY, Stage.DRAINING, Stage.DRAINED, Stage.STARTING, Stage.PENDING]
        for goal in self.goals.values():
            leaving = [
                one
                for one in self.of(goal.name)
                if one.is_leaving and one.revision == goal.revision and not one.node_goes and not one.has_failed
            ]
            leaving.sort(key=lambda one: (usefulness.index(one.stage), one.pod))
            for one in leaving[: max(0, goal.replicas - self.strength(goal.name))]:
                self.members[one.pod] = replace(one, is_leaving=False)
                self.steps.unmark.append(one.pod)
                if one.stage in {Stage.DRAINING, Stage.DRAINED}:
                    self.steps.resume.append(one.pod)

    def lend(self) -> None:
        """A pool with too many helps one with too few: another role for a worker, and no new pod."""
        if not self.rules.lends:
            return
        for short in self.goals.values():
            for rich in self.goals.values():
                is_kin = rich.name != short.name and rich.kin == short.kin and rich.role is not short.role
                is_kin = is_kin and Role.ENCODE not in {rich.role, short.role}
                has_spare = self.strength(rich.name) > rich.replicas and not self.outdated(rich)
                if is_kin and has_spare and self.strength(short.name) < short.replicas and short.role is not Role.MIXED:
                    self._lend_one(rich, short)

    def _lend_one(self, rich: PoolGoal, short: PoolGoal) -> None:
        own = [one for one in self.kept(rich.name) if one.stage is Stage.READY and self.lent_to(one) is None]
        back = [
            one
            for one in self.kept(short.name)
            if one.stage is Stage.READY and (to := self.lent_to(one)) is not None and to.name == rich.name
        ]
        for one in sorted(back or own, key=lambda one: (one.sequences, one.pod)):
            if isinstance(may_go(one, self.staying()), Covered):
                self._flip(one, short.role, f"{rich.name} has one to spare and {short.name} is short of one")
                return

    def choose_leavers(self) -> None:
        """At most one serving worker of a pool at a time; those that serve nobody all at once."""
        for member in list(self.members.values()):
            if member.pool not in self.goals and not member.is_leaving and member.stage is not Stage.LEAVING:
                self._let_go(member, "its pool is no longer wanted")
        for goal in self.goals.values():
            self._leave_nodes(goal)
            self._shrink(goal)
            self._renew(goal)

    def _leave_nodes(self, goal: PoolGoal) -> None:
        for member in sorted(self.kept(goal.name), key=lambda one: (one.sequences, one.pod)):
            if not member.node_goes:
                continue
            if member.stage not in SERVING or (member.node_dies and not self._is_alone(member)):
                self._let_go(member, "its node is about to go")
            elif member.node_dies:
                continue
            elif self._ready_elsewhere(goal) >= goal.replicas:
                self._let_go(member, "its node is cordoned and others have taken its place")
            elif self._has_no_room(goal) and not self._is_alone(member) and not self._one_is_leaving(goal):
                self._let_go(member, "its node is cordoned, and no other has room for one more")

    def _shrink(self, goal: PoolGoal) -> None:
        surplus = self.strength(goal.name) - self.wanted(goal)
        for member in self._by_worth(goal):
            if surplus <= 0 or (member.stage in SERVING and self._one_is_leaving(goal)):
                return
            if self._let_go(member, f"{goal.name} has {goal.replicas + surplus} and needs {goal.replicas}"):
                surplus -= 1

    def _renew(self, goal: PoolGoal) -> None:
        """One step of a rollout: a worker of an earlier revision leaves when everything new is ready."""
        outdated = self.outdated(goal)
        for member in outdated:
            if member.stage not in SERVING:
                self._let_go(member, "it is of an earlier revision")
        serving = [one for one in outdated if one.stage in SERVING]
        if not serving or self._one_is_leaving(goal):
            return
        # A new one that finds no node waits for this very step.
        unready = [
            one
            for one in self.members.values()
            if one.pool == goal.name
            and one.stage is not Stage.READY
            and (one.stage is Stage.LEAVING or one.revision == goal.revision)
            and not (one.is_leaving or (one.stage is Stage.PENDING and one.trouble))
        ]
        if unready:
            self.steps.waits.append(f"{goal.name}: waits until {unready[0].pod} is ready")
        elif self.strength(goal.name) < self.wanted(goal):
            self.steps.waits.append(f"{goal.name}: waits for a new worker")
        elif not self._half_would_stay():
            self.steps.waits.append(f"{goal.name}: waits until another pool's step is done")
        else:
            self._let_go(min(serving, key=lambda one: (one.sequences, one.pod)), "it is of an earlier revision")

    def drain_leavers(self) -> None:
        """Tell leavers that still admit work; again and again, for a telling may be lost."""
        for member in self.members.values():
            if member.is_leaving and member.stage is Stage.READY:
                self.steps.drain.append(member.pod)
            if member.is_leaving and member.stage in SERVING:
                self.steps.waits.append(f"{member.pool}: {member.pod} hands over its requests")

    def go_home(self) -> None:
        """Workers that helped out take their own role again, once nobody needs the help.

        Those that must be emptied for it come first: while they are, the others go on helping.
        """
        odd = [one for one in self.staying() if one.pool in self.goals and one.stage is not Stage.LEAVING]
        for member in sorted(odd, key=lambda one: (not self._must_empty(one, self.goals[one.pool].role), one.pod)):
            goal = self.goals[member.pool]
            if member.flip_to is not None:
                self._flip(member, member.flip_to, f"{goal.name} has begun it")
            elif member.stage is Stage.READY and member.role is not goal.role and self.lent_to(member) is None:
                self._send_home(member, goal)

    def _send_home(self, member: Member, goal: PoolGoal) -> None:
        why = f"{goal.name} is its own pool"
        if self._must_empty(member, goal.role):
            match may_go(member, self.staying()):
                case Covered():
                    self._flip(member, goal.role, why)
                case NeedsHelp(helper):
                    self._flip(helper, Role.MIXED, f"somebody must take over from {member.pod}")
                case Alone():
                    pass
            return
        others = [
            one
            for one in self.staying()
            if one.pod != member.pod and one.stage is Stage.READY and one.fingerprint == member.fingerprint
        ]
        needed = token_phases(one.role for one in self.goals.values() if one.replicas)
        if needed <= phases_of(others) | PHASES[goal.role] and not self._helps(member):
            self._flip(member, goal.role, why)

    # ------------------------------------------------------------ small parts

    def _helps(self, member: Member) -> bool:
        """Whether a leaver's requests still go to this one."""
        leavers = [one for one in self.members.values() if one.is_leaving and one.stage in SERVING]
        own = replace(member, role=self.goals[member.pool].role)
        others = [one for one in self.staying() if one.pod != member.pod]
        return any(not isinstance(may_go(leaver, [*others, own]), Covered) for leaver in leavers)

    def _by_worth(self, goal: PoolGoal) -> list[Member]:
        """The pool's own and borrowed workers, the least useful first."""
        return sorted(
            self.kept(goal.name),
            key=lambda one: (
                [Stage.PENDING, Stage.STARTING, Stage.DRAINED, Stage.DRAINING, Stage.READY].index(one.stage),
                one.revision == goal.revision,
                one.sequences,
                one.pod,
            ),
        )

    def _one_is_leaving(self, goal: PoolGoal) -> bool:
        return any(one.is_leaving and one.stage in SERVING | {Stage.DRAINED} for one in self.of(goal.name))

    def _half_would_stay(self) -> bool:
        """Whether, one worker less, at least half of what is wanted in all still serves."""
        ready = sum(one.stage is Stage.READY for one in self.staying())
        wanted = sum(goal.replicas for goal in self.goals.values())
        placed = sum(one.stage is not Stage.PENDING for one in self.members.values())
        return wanted <= 1 or 2 * (ready - 1) >= min(wanted, placed)

    def _ready_elsewhere(self, goal: PoolGoal) -> int:
        """Ready workers of a pool on nodes that stay."""
        return sum(one.stage is Stage.READY and not one.node_goes for one in self.kept(goal.name))

    def _has_no_room(self, goal: PoolGoal) -> bool:
        """Whether a worker of this pool waits for a node that is not there."""
        return any(one.has_no_place for one in self.kept(goal.name))

    def _is_alone(self, member: Member) -> bool:
        return isinstance(may_go(member, self.staying()), Alone)

    def _let_go(self, member: Member, why: str) -> bool:
        """Mark a worker, or first get help for those it serves. Whether it is marked now."""
        if member.pod in self.flipped:
            return False  # it has just been asked to help
        match may_go(member, self.staying()):
            case NeedsHelp(helper) if self._somebody_stays():
                self._flip(helper, Role.MIXED, f"somebody must take over from {member.pod}")
                return False
            case Alone() if self._somebody_stays():
                self.steps.waits.append(f"{member.pool}: {member.pod} stays until another can take over")
                return False
            case Covered() | NeedsHelp() | Alone():
                self.members[member.pod] = replace(member, is_leaving=True)
                self.steps.mark.append(Leaving(member.pod, why))
                return True

    def _somebody_stays(self) -> bool:
        """Whether more than one worker is wanted in all: then one can always wait for another.

        The only worker of a service leaves when its requests have ended; so do all when none is wanted.
        """
        return sum(goal.replicas for goal in self.goals.values()) > 1

    def _flip(self, member: Member, role: Role, why: str) -> None:
        """Once a pass for each worker."""
        if member.pod in self.flipped:
            return
        self.flipped.add(member.pod)
        drains = self._must_empty(member, role) and member.stage is not Stage.DRAINED
        self.steps.flips.append(Flip(member.pod, role, why, drains))
        self.steps.waits.append(f"{member.pool}: {member.pod} becomes {role.value}")

    def _must_empty(self, member: Member, role: Role) -> bool:
        """Whether what the worker runs would be foreign to the new role."""
        return role is not Role.MIXED and (member.role, role) != (Role.MIXED, Role.DECODE)


def lent(goals: Sequence[PoolGoal], members: Iterable[Member], rules: Rules) -> dict[str, int]:
    """By pool: workers lent out, less workers borrowed. A pool that lends keeps so many pods more."""
    desk = _Desk(goals, members, rules)
    balance = dict.fromkeys(desk.goals, 0)
    for member in desk.members.values():
        to = None if member.is_leaving or member.stage is Stage.LEAVING else desk.lent_to(member)
        if to is not None:
            balance[member.pool] += 1
            balance[to.name] -= 1
    return balance
