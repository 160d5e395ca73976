"""The cheapest mix, as a mixed-integer program over shares of buckets and whole replicas, solved by HiGHS.

Melange's program (arXiv 2404.14527, section 5.4) with phases. A bucket b is served by mixed pools, or by
prefill and decode pools, or by pools T that do both without a vision tower; those that do not see leave a bucket's
images to encode pools. In shares that sum to 1:

    minimise    sum price[k] * B[phase, k]                      B whole numbers of replicas
    such that   sum_k P[b,k] + M[b,k] + T[b,k] = 1              all of it is served
                sum_k P[b,k] = sum_k D[b,k]                     each phase once
                sum_k P[b,k] + T[b,k] = sum_k E[b,k]            where there are images
                sum_b load[b,k] * X[b,k] <= B[phase,k]          nobody is overloaded
                sum GPUs of a class <= how many there are
                flow over a trunk <= its bytes/s                see `_Rows.add_trunks`

Melange cuts a bucket into 8 slices, each with a yes or no for every kind. The slices of a bucket are alike, so
only their number per kind matters: shares in eighths say the same with an eighth of the columns and none of the
symmetry. Shares of any size, the default, are what requests drawn at random by weight can follow; the cost is
never above that of any slicing, and only replicas stay whole, so optima are proven in seconds.
Pure. Next: `plan.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import highspy
import numpy as np
import numpy.typing as npt

from sluice.planner.problem import Problem
from sluice.planner.throughput import Phase

SOLVE_S_MAX: Final = 30.0  # of a clock on the wall: a busy machine needs more of it than an idle one

Counts = npt.NDArray[np.int64]  # [kind]
Shares = npt.NDArray[np.float64]  # [bucket, kind]: 0..1


class Outcome(Enum):
    """How a solve ended."""

    OPTIMAL = "optimal"  # proven: nothing cheaper exists
    FEASIBLE = "feasible"  # the time ran out; at most `gap` dearer than the optimum
    IMPOSSIBLE = "impossible"  # no mix within the bounds serves the workload, or none was found in time


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """What to run. Cost is inf, and the tables empty, where the outcome is IMPOSSIBLE."""

    outcome: Outcome
    cost_per_h: float
    bound_per_h: float  # nothing cheaper than this can exist
    replicas: Mapping[Phase, Counts]
    shares: Mapping[Phase, Shares]

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


def nothing() -> Solution:
    """No mix at all."""
    return Solution(outcome=Outcome.IMPOSSIBLE, cost_per_h=np.inf, bound_per_h=np.inf, replicas={}, shares={})


class _Rows:
    """The program while it is written down: columns first, then one block of rows after another."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.buckets = len(problem.workload.buckets)
        self.kinds = len(problem.kinds)
        self.classes = sorted({kind.gpu.name for kind in problem.kinds})
        self._columns = 0
        # Where slices are whole a column counts slices; otherwise it is the share itself.
        self.whole = problem.slices_per_bucket or 1
        self.shares = {phase: self._new(self.buckets * self.kinds).reshape(self.buckets, self.kinds) for phase in Phase}
        self.replicas = {phase: self._new(self.kinds) for phase in Phase}
        sizes = (self.buckets, len(self.classes), len(self.classes)) if problem.trunks else (0, 0, 0)
        self.flows = self._new(int(np.prod(sizes))).reshape(sizes)
        self._starts: list[int] = [0]
        self._at: list[int] = []
        self._factors: list[float] = []
        self._low: list[float] = []
        self._high: list[float] = []

    def _new(self, columns: int) -> npt.NDArray[np.int64]:
        first, self._columns = self._columns, self._columns + columns
        return np.arange(first, self._columns)

    def _row(self, terms: Sequence[tuple[int, float]], low: float, high: float) -> None:
        for column, factor in terms:
            if factor:
                self._at.append(column)
                self._factors.append(factor)
        self._starts.append(len(self._at))
        self._low.append(low)
        self._high.append(high)

    def add_assignment(self) -> None:
        """All of every bucket is served, each of its phases once."""
        for row, bucket in enumerate(self.problem.workload.buckets):
            prefill = [(int(column), 1.0) for column in self.shares[Phase.PREFILL][row]]
            blind = [*prefill, *((int(column), 1.0) for column in self.shares[Phase.TOKENS][row])]
            self._row([*blind, *((int(c), 1.0) for c in self.shares[Phase.MIXED][row])], self.whole, self.whole)
            self._row([*prefill, *((int(c), -1.0) for c in self.shares[Phase.DECODE][row])], 0, 0)
            if bucket.images:
                self._row([*blind, *((int(c), -1.0) for c in self.shares[Phase.ENCODE][row])], 0, 0)

    def add_pools(self) -> None:
        """A pool has at least as many replicas as its load."""
        for phase in Phase:
            loads = np.nan_to_num(self.problem.loads[phase], posinf=0.0) / self.whole
            for kind in range(self.kinds):
                load = [(int(self.shares[phase][row, kind]), float(loads[row, kind])) for row in range(self.buckets)]
                self._row([*load, (int(self.replicas[phase][kind]), -1.0)], -highspy.kHighsInf, 0)

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
        prefills flows to classes h, and what h decodes flows in. Any flows with these margins can be routed,
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
                self._row([*out, *((int(self.shares[Phase.PREFILL][row, k]), -1.0) for k in members)], 0, 0)
                self._row([*into, *((int(self.shares[Phase.DECODE][row, k]), -1.0) for k in members)], 0, 0)
        for (source, target), bytes_per_s in self.problem.trunks.items():
            if source not in place or target not in place:
                continue
            columns = self.flows[:, place[source], place[target]]
            # In units of the trunk, so that the row's numbers are of the size of the others'.
            scale = 1 / (self.whole * max(bytes_per_s, 1.0))
            self._row([(int(c), moved[row] * scale) for row, c in enumerate(columns)], 0, min(1.0, bytes_per_s))

    def solve(self, solve_s_max: float) -> Solution:
        """Hand it to HiGHS."""
        highs = highspy.Highs()
        highs.silent()
        highs.setOptionValue("threads", 1)  # the same plan every time
        highs.setOptionValue("time_limit", solve_s_max)
        highs.setOptionValue("mip_rel_gap", 0.0)
        highs.passModel(self._program())
        highs.run()
        info = highs.getInfo()
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return nothing()
        is_proven = highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
        return self._read(np.asarray(highs.getSolution().col_value), bound=info.mip_dual_bound, is_proven=is_proven)

    def _program(self) -> highspy.HighsLp:
        cost, upper = np.zeros(self._columns), np.full(self._columns, highspy.kHighsInf)
        kinds = np.full(self._columns, highspy.HighsVarType.kContinuous, dtype=object)
        prices = [kind.price_per_h for kind in self.problem.kinds]
        for phase in Phase:
            can = np.isfinite(self.problem.loads[phase])
            upper[self.shares[phase]] = np.where(can, float(self.whole), 0.0)
            cost[self.replicas[phase]] = prices
            kinds[self.replicas[phase]] = highspy.HighsVarType.kInteger
            if self.problem.slices_per_bucket:
                kinds[self.shares[phase].ravel()] = highspy.HighsVarType.kInteger
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = self._columns, len(self._low)
        program.col_cost_, program.col_lower_, program.col_upper_ = cost, np.zeros(self._columns), upper
        program.row_lower_, program.row_upper_ = np.array(self._low), np.array(self._high)
        program.integrality_ = list(kinds)
        program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        program.a_matrix_.start_ = np.array(self._starts, dtype=np.int32)
        program.a_matrix_.index_ = np.array(self._at, dtype=np.int32)
        program.a_matrix_.value_ = np.array(self._factors)
        return program

    def _read(self, values: npt.NDArray[np.float64], *, bound: float, is_proven: bool) -> Solution:
        replicas = {phase: np.rint(values[self.replicas[phase]]).astype(np.int64) for phase in Phase}
        prices = np.array([kind.price_per_h for kind in self.problem.kinds])
        cost = float(sum(prices @ counts for counts in replicas.values()))
        return Solution(
            outcome=Outcome.OPTIMAL if is_proven else Outcome.FEASIBLE,
            cost_per_h=cost,
            bound_per_h=cost if is_proven else min(cost, max(0.0, bound)),
            replicas=replicas,
            shares={phase: values[self.shares[phase]] / self.whole for phase in Phase},
        )
