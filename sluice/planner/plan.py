"""A plan: pools of replicas per phase, what they cost, and what they promise.

Puts the parts together: reachable buckets, the program, and what each pool will be limited by. Asks
no simulator. Next: `sensitivity.py` for what would make it cheaper, `verification.py` for the replay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sluice.planner import problem as problems
from sluice.planner import solver
from sluice.planner.problem import AS_COMPUTED, Headroom, Problem
from sluice.planner.replica_kind import ReplicaKind
from sluice.planner.solver import Outcome, Solution
from sluice.planner.throughput import Limit, Phase, Target
from sluice.planner.workload import Workload

RATE_HALVINGS: Final = 7
SHARE_MIN: Final = 1e-9  # less of a bucket is the solver's rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What can be bought, and what lies between."""

    kinds: Sequence[ReplicaKind]
    gpus_max: Mapping[str, int] = field(default_factory=dict)  # by class; absent: no bound
    trunks: Mapping[tuple[str, str], float] = field(default_factory=dict)  # bytes/s from a class to a class
    phases: Sequence[Phase] = tuple(Phase)

    def only(self, name: str) -> "Offer":
        """The same with one GPU class."""
        return replace(self, kinds=[kind for kind in self.kinds if kind.gpu.name == name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Replicas of one kind that do one phase."""

    phase: Phase
    kind: ReplicaKind
    replicas: int
    load: float  # 0..1, of its capacity within the objectives
    request_share: float  # of all requests, how many pass here
    limit: Limit  # what most of its load would run into first

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.replicas * self.kind.tensor_parallel

    @property
    def cost_per_h(self) -> float:
        """Dollars."""
        return self.replicas * self.kind.price_per_h


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cheapest mix found. No pools where the outcome is IMPOSSIBLE."""

    outcome: Outcome
    pools: tuple[Pool, ...]
    cost_per_h: float
    bound_per_h: float
    offer: Offer  # what it was made from
    workload: Workload  # all of it
    served: Workload  # what the plan is for: the reachable buckets
    target: Target
    headroom: Headroom
    unreachable_share: float  # of requests: no GPU on offer serves their size in time

    @property
    def gap(self) -> float:
        """How much of the cost is not proven necessary, 0..1."""
        return 0.0 if self.cost_per_h <= self.bound_per_h else 1 - self.bound_per_h / self.cost_per_h

    @property
    def promise(self) -> float:
        """The share of all requests that shall meet their objectives."""
        return self.target.attainment * (1 - self.unreachable_share)

    @property
    def output_tokens_per_s(self) -> float:
        """Tokens the whole workload asks for."""
        return sum(bucket.rate_per_s * bucket.output_tokens for bucket in self.workload.buckets)

    @property
    def cost_per_million_tokens(self) -> float:
        """Dollars per million output tokens at the planned rate."""
        return self.cost_per_h / 3600 / self.output_tokens_per_s * 1e6


def make_plan(workload: Workload, offer: Offer, target: Target, *, headroom: Headroom = AS_COMPUTED) -> Plan:
    """The cheapest mix for what of the workload can be served in time at all.

    Raises ConfigError where `workload`, `offer` or `target` is out of range.
    """
    whole = problems.build(
        workload,
        offer.kinds,
        target,
        gpus_max=offer.gpus_max,
        headroom=headroom,
        trunks=offer.trunks,
        phases=offer.phases,
    )
    can = problems.reachable(whole)
    lost = sum(each.rate_per_s for each, is_served in zip(workload.buckets, can, strict=True) if not is_served)
    problem = _only_rows(whole, can)
    solution = solver.solve(problem) if any(can) else solver.nothing()
    return Plan(
        outcome=solution.outcome,
        pools=tuple(_pools(problem, solution)),
        cost_per_h=solution.cost_per_h,
        bound_per_h=solution.bound_per_h,
        offer=offer,
        workload=workload,
        served=problem.workload,
        target=target,
        headroom=headroom,
        unreachable_share=lost / workload.rate_per_s,
    )


def rate_share_max(workload: Workload, offer: Offer, target: Target) -> float:
    """The largest share of the workload's rate, 0..1, for which there is a plan; for an error's text."""
    low, high = 0.0, 1.0
    for _ in range(RATE_HALVINGS):
        middle = (low + high) / 2
        plan = make_plan(workload.at_rate(workload.rate_per_s * middle), offer, target)
        low, high = (low, middle) if plan.outcome is Outcome.IMPOSSIBLE else (middle, high)
    return low


def _only_rows(problem: Problem, keep: Sequence[bool]) -> Problem:
    buckets = [bucket for bucket, is_kept in zip(problem.workload.buckets, keep, strict=True) if is_kept]
    return replace(
        problem,
        workload=Workload(buckets=tuple(buckets)),
        loads={phase: table[list(keep)] for phase, table in problem.loads.items()},
        limits={
            phase: [row for row, is_kept in zip(rows, keep, strict=True) if is_kept]
            for phase, rows in problem.limits.items()
        },
    )


def _pools(problem: Problem, solution: Solution) -> list[Pool]:
    found: list[Pool] = []
    if solution.outcome is Outcome.IMPOSSIBLE:
        return found
    for phase in Phase:
        for column, kind in enumerate(problem.kinds):
            replicas = int(solution.replicas[phase][column])
            if not replicas:
                continue
            load, passing = 0.0, 0.0
            limits: dict[Limit, float] = {}
            for row, bucket in enumerate(problem.workload.buckets):
                part = float(solution.shares[phase][row, column])
                if part < SHARE_MIN:
                    continue
                load += part * float(problem.loads[phase][row, column])
                passing += part * bucket.rate_per_s
                limit = problem.limits[phase][row][column]
                limits[limit] = limits.get(limit, 0.0) + part * float(problem.loads[phase][row, column])
            found.append(
                Pool(
                    phase=phase,
                    kind=kind,
                    replicas=replicas,
                    load=load / replicas,
                    request_share=passing / problem.workload.rate_per_s,
                    limit=max(limits, key=limits.__getitem__, default=Limit.BATCH),
                )
            )
    return found
