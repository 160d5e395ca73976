"""The planning problem as numbers: loads per phase, prices, how many GPUs there are, links.

Built from a workload and what can be bought; says what each load is limited by. Solves nothing.
Next: `solver.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from sluice.errors import ConfigError
from sluice.planner.replica_kind import ReplicaKind
from sluice.planner.throughput import Limit, Phase, Target, rate_of
from sluice.planner.workload import Bucket, Workload

KINDS_MAX: Final = 64
BUCKETS_MAX: Final = 1000

Loads = npt.NDArray[np.float64]  # [bucket, kind]: replicas a whole bucket keeps busy; inf where impossible


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """How much larger than computed each phase's load is taken; 1: as computed."""

    prefill: float = 1.0  # encode and the prefill side of mixed too
    decode: float = 1.0


AS_COMPUTED: Final = Headroom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Everything the integer program needs."""

    workload: Workload
    kinds: tuple[ReplicaKind, ...]
    gpus_max: Mapping[str, int]  # by GPU class name; a class that is absent has no bound
    loads: Mapping[Phase, Loads]
    limits: Mapping[Phase, Sequence[Sequence[Limit]]]  # [bucket][kind]
    trunks: Mapping[tuple[str, str], float] = field(default_factory=dict)  # bytes/s from prefill to decode class
    slices_per_bucket: int | None = None  # None: a bucket's rate may be divided in any proportion

    @property
    def kv_bytes_per_s(self) -> list[float]:
        """KV each bucket would move if all of it were handed over."""
        per_token = max(kind.kv_token_bytes for kind in self.kinds)
        return [each.rate_per_s * each.input_tokens * per_token for each in self.workload.buckets]


def build(
    workload: Workload,
    kinds: Sequence[ReplicaKind],
    target: Target,
    *,
    gpus_max: Mapping[str, int],
    headroom: Headroom = AS_COMPUTED,
    trunks: Mapping[tuple[str, str], float] | None = None,
    phases: Sequence[Phase] = tuple(Phase),
) -> Problem:
    """Every load of every bucket on every kind; only `phases` are offered.

    Raises ConfigError for an empty or oversized problem or an objective out of range.
    """
    _check(workload, kinds, target)
    loads: dict[Phase, Loads] = {}
    limits: dict[Phase, list[list[Limit]]] = {}
    for phase in Phase:
        table = np.full((len(workload.buckets), len(kinds)), np.inf)
        why = [[Limit.TTFT] * len(kinds) for _ in workload.buckets]
        factor = _factor(phase, headroom)
        for row, bucket in enumerate(workload.buckets):
            if phase not in phases or not _is_of_use(phase, workload, bucket):
                continue
            for column, kind in enumerate(kinds):
                rate = rate_of(phase, kind, bucket, target)
                why[row][column] = rate.limit
                if rate.per_s > 0:
                    table[row, column] = factor * bucket.rate_per_s / rate.per_s
        loads[phase], limits[phase] = table, why
    return Problem(
        workload=workload,
        kinds=tuple(kinds),
        gpus_max=dict(gpus_max),
        loads=loads,
        limits=limits,
        trunks=dict(trunks or {}),
    )


def reachable(problem: Problem) -> list[bool]:
    """For each bucket, whether anything on offer serves it in time."""
    can = {phase: np.isfinite(table).any(axis=1) for phase, table in problem.loads.items()}
    split = can[Phase.PREFILL] & can[Phase.DECODE]
    needs_encoder = np.array([bucket.images > 0 for bucket in problem.workload.buckets])
    return list(can[Phase.MIXED] | ((split | can[Phase.TOKENS]) & (can[Phase.ENCODE] | ~needs_encoder)))


def _is_of_use(phase: Phase, workload: Workload, bucket: Bucket) -> bool:
    """Without images nobody encodes, and a worker without a tower is like any other."""
    match phase:
        case Phase.ENCODE:
            return bucket.images > 0
        case Phase.TOKENS:
            return any(each.images for each in workload.buckets)
        case Phase.PREFILL | Phase.DECODE | Phase.MIXED:
            return True


def _factor(phase: Phase, headroom: Headroom) -> float:
    match phase:
        case Phase.ENCODE | Phase.PREFILL:
            return headroom.prefill
        case Phase.DECODE:
            return headroom.decode
        case Phase.MIXED | Phase.TOKENS:
            return max(headroom.prefill, headroom.decode)


def _check(workload: Workload, kinds: Sequence[ReplicaKind], target: Target) -> None:
    if not 1 <= len(kinds) <= KINDS_MAX:
        raise ConfigError(f"gpus: {len(kinds)} ways of using GPUs; give 1 to {KINDS_MAX} that hold the model")
    if not 1 <= len(workload.buckets) <= BUCKETS_MAX:
        raise ConfigError(f"workload: {len(workload.buckets)} buckets; give 1 to {BUCKETS_MAX}")
    if not (target.ttft_s > 0 and target.tpot_s > 0):
        raise ConfigError("slo: ttft and tpot must be positive")
    if not 0.5 <= target.attainment < 1:
        raise ConfigError(f"attainment: {target.attainment}; give a share from 0.5 to below 1, such as 0.99")
