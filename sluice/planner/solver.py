"""The cheapest mix, as an integer program over slices and replicas, solved by HiGHS.

Melange's program (arXiv 2404.14527, section 5.4) with phases. A slice is a bucket's rate over
`slices_per_bucket`; it is served by one mixed pool, or by a prefill and a decode pool (and an encode
pool if it has images):

    minimise    sum price[k] * B[phase, k]
    such that   sum_k P[b,k] + sum_k M[b,k] = slices            every slice is served
                sum_k P[b,k] = sum_k D[b,k]  ( = sum_k E[b,k])  each phase once
                sum_b load[b,k] / slices * X[b,k] <= B[phase,k] nobody is overloaded
                sum GPUs of a class <= how many there are
                flow over a trunk <= its bytes/s                see `_Rows.add_trunks`

Slices of one bucket are interchangeable, so X counts them (an integer up to `slices_per_bucket`)
where Melange has a yes or no for each slice and kind. Every assignment of slices has its counts, every
count an assignment, at the same cost: the optimum is the same, with an eighth of the columns
and none of the symmetry. Pure. Next: `plan.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from sluice.planner.problem import Problem
from sluice.planner.throughput import Phase

SOLVE_S_MAX: Final = 10.0
_STATUS_OPTIMAL: Final = 0
_STATUS_LIMIT: Final = 1  # the time ran out; a solution may be there

Counts = npt.NDArray[np.int64]  # [kind]
Slices = npt.NDArray[np.int64]  # [bucket, kind]


class Outcome(Enum):
    """How a solve ended."""

    OPTIMAL = "optimal"  # proven: nothing cheaper exists
    FEASIBLE = "feasible"  # the time ran out; at most `gap` dearer than the optimum
    IMPOSSIBLE = "impossible"  # no mix within the bounds serves the workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """What to run. Cost is inf, and the tables empty, where the outcome is IMPOSSIBLE."""

    outcome: Outcome
    cost_per_h: float
    bound_per_h: float  # nothing cheaper than this can exist
    replicas: Mapping[Phase, Counts]
    slices: Mapping[Phase, Slices]

    @property
    def gap(self) -> float:
        """How much of the cost is not proven necessary, 0..1."""
        return 0.0 if self.cost_per_h <= self.bound_per_h else 1 - self.bound_per_h / self.cost_per_h


def solve(problem: Problem, *, solve_s_max: float = SOLVE_S_MAX) -> Solution:
    """The cheapest mix for a problem all of whose buckets are reachable."""
    rows = _Rows(problem)
    rows.add_assignment()
    rows.add_pools()
    rows.add_classes()
    rows.add_trunks()
    return rows.solve(solve_s_max)


class _Rows:
    """The program while it is written down: columns first, then one block of rows after another."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.buckets = len(problem.workload.buckets)
        self.kinds = len(problem.kinds)
        self.classes = sorted({kind.gpu.name for kind in problem.kinds})
        self._columns = 0
        self.slices = {phase: self._new(self.buckets * self.kinds).reshape(self.buckets, self.kinds) for phase in Phase}
        self.replicas = {phase: self._new(self.kinds) for phase in Phase}
        self.integers = self._columns
        sizes = (self.buckets, len(self.classes), len(self.classes)) if problem.trunks else (0, 0, 0)
        self.flows = self._new(int(np.prod(sizes))).reshape(sizes)
        self._entries: list[tuple[int, int, float]] = []
        self._low: list[float] = []
        self._high: list[float] = []

    def _new(self, columns: int) -> npt.NDArray[np.int64]:
        first, self._columns = self._columns, self._columns + columns
        return np.arange(first, self._columns)

    def _row(self, terms: Sequence[tuple[int, float]], low: float, high: float) -> None:
        row = len(self._low)
        self._entries.extend((row, column, factor) for column, factor in terms if factor)
        self._low.append(low)
        self._high.append(high)

    def add_assignment(self) -> None:
        """Every slice of every bucket is served, each of its phases once."""
        count = self.problem.slices_per_bucket
        for row, bucket in enumerate(self.problem.workload.buckets):
            prefill = [(int(column), 1.0) for column in self.slices[Phase.PREFILL][row]]
            self._row([*prefill, *((int(c), 1.0) for c in self.slices[Phase.MIXED][row])], count, count)
            self._row([*prefill, *((int(c), -1.0) for c in self.slices[Phase.DECODE][row])], 0, 0)
            if bucket.images:
                self._row([*prefill, *((int(c), -1.0) for c in self.slices[Phase.ENCODE][row])], 0, 0)

    def add_pools(self) -> None:
        """A pool has at least as many replicas as its load."""
        for phase in Phase:
            share = np.nan_to_num(self.problem.loads[phase], posinf=0.0) / self.problem.slices_per_bucket
            for kind in range(self.kinds):
                load = [(int(self.slices[phase][row, kind]), float(share[row, kind])) for row in range(self.buckets)]
                self._row([*load, (int(self.replicas[phase][kind]), -1.0)], -np.inf, 0)

    def add_classes(self) -> None:
        """No more GPUs of a class than there are."""
        for name, most in self.problem.gpus_max.items():
            terms = [
                (int(self.replicas[phase][index]), float(kind.tensor_parallel))
                for index, kind in enumerate(self.problem.kinds)
                for phase in Phase
                if kind.gpu.name == name
            ]
            self._row(terms, 0, most)

    def add_trunks(self) -> None:
        """Bounds on what flows between two classes.

        The product "prefilled here and decoded there" is replaced by flows: of each bucket, what class g
        prefills flows to classes h, and what h decodes flows in. Any split with these margins can be routed,
        so nothing is lost. One flow per pair of classes, not of kinds: a trunk does not ask for the degree.
        """
        if not self.problem.trunks:
            return
        place = {name: index for index, name in enumerate(self.classes)}
        of_class = [
            [index for index, kind in enumerate(self.problem.kinds) if kind.gpu.name == name] for name in self.classes
        ]
        moved = self.problem.kv_bytes_per_s
        for row in range(self.buckets):
            for index, members in enumerate(of_class):
                out = [(int(column), 1.0) for column in self.flows[row, index, :]]
                into = [(int(column), 1.0) for column in self.flows[row, :, index]]
                self._row([*out, *((int(self.slices[Phase.PREFILL][row, k]), -1.0) for k in members)], 0, 0)
                self._row([*into, *((int(self.slices[Phase.DECODE][row, k]), -1.0) for k in members)], 0, 0)
        for (source, target), bytes_per_s in self.problem.trunks.items():
            if source not in place or target not in place:
                continue
            columns = self.flows[:, place[source], place[target]]
            # In units of the trunk, so that the row's numbers are of the size of the others'.
            scale = 1 / (self.problem.slices_per_bucket * max(bytes_per_s, 1.0))
            self._row([(int(c), moved[row] * scale) for row, c in enumerate(columns)], 0, min(1.0, bytes_per_s))

    def solve(self, solve_s_max: float) -> Solution:
        """Hand it to HiGHS."""
        upper = np.full(self._columns, np.inf)
        for phase in Phase:
            finite = np.isfinite(self.problem.loads[phase])
            upper[self.slices[phase]] = np.where(finite, float(self.problem.slices_per_bucket), 0.0)
        cost = np.zeros(self._columns)
        price = np.array([kind.price_per_h for kind in self.problem.kinds])
        for phase in Phase:
            cost[self.replicas[phase]] = price
        rows, columns, factors = zip(*self._entries, strict=True)
        matrix = coo_array((factors, (rows, columns)), shape=(len(self._low), self._columns)).tocsr()
        result = milp(
            cost,
            integrality=(np.arange(self._columns) < self.integers).astype(np.int64),
            bounds=Bounds(0, upper),
            constraints=LinearConstraint(matrix, self._low, self._high),
            options={"time_limit": solve_s_max, "mip_rel_gap": 0.0},
        )
        if result.x is None or result.status not in {_STATUS_OPTIMAL, _STATUS_LIMIT}:
            return nothing()
        return self._read(result.x, bound=result.mip_dual_bound, is_proven=result.status == _STATUS_OPTIMAL)

    def _read(self, values: npt.NDArray[np.float64], *, bound: float | None, is_proven: bool) -> Solution:
        whole: Callable[[npt.NDArray[np.int64]], Counts] = lambda at: np.rint(values[at]).astype(np.int64)  # noqa: E731
        replicas = {phase: whole(self.replicas[phase]) for phase in Phase}
        prices = np.array([kind.price_per_h for kind in self.problem.kinds])
        cost = float(sum(prices @ counts for counts in replicas.values()))
        return Solution(
            outcome=Outcome.OPTIMAL if is_proven else Outcome.FEASIBLE,
            cost_per_h=cost,
            bound_per_h=cost if is_proven else min(cost, bound or 0.0),
            replicas=replicas,
            slices={phase: whole(self.slices[phase]) for phase in Phase},
        )


def nothing() -> Solution:
    """No mix at all."""
    return Solution(outcome=Outcome.IMPOSSIBLE, cost_per_h=np.inf, bound_per_h=np.inf, replicas={}, slices={})
