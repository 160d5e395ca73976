"""Decides how many workers each pool should have, from the platform's own signals. Pure.

Load of a pool is the fullest of what its workers can run out of: places in the batch and KV blocks for decode, prompts
in line for prefill. It grows above HIGH or when too many requests miss the objective that its phase owns,
for long enough; it shrinks when the others would still be below LOW without one, for long enough. Between the two
nothing happens, so that growing never causes shrinking. A pool that may be empty gives up its last worker when nobody
has asked for anything for as long, and gets one at once when a request waits: routers hold it until then. Who is
moved to do it, a lent worker before a new pod, is `pool_plan.py`'s business. Next: `service_memory.py` keeps the state.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sluice.domain.role import Role
from sluice.operator.resources.model_service import ScalingSpec
from sluice.operator.routers import WorkerView

HIGH: Final = 0.8
LOW: Final = 0.6
GROW_TO: Final = 0.7
"""A pool that grows is sized for this load."""
PROMPTS_IN_LINE: Final = 4
"""Prompts on a prefill worker, running or waiting, that make it full: more only wait longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLoad:
    """One pool as it is now."""

    name: str
    role: Role
    replicas: int  # asked for now
    min: int
    max: int
    ready: int
    load: float  # of the ready ones, 1.0 is full; may be more
    kin: str = ""  # pools of equal kin may lend workers to each other


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What clients ask of the service, over the recent window."""

    queued: int = 0  # now
    inflight: int = 0  # now
    held: int = 0  # now: no worker serves at all
    fresh: int = 0  # ended since the look before
    ended: int = 0
    ttft_misses: int = 0
    tpot_misses: int = 0

    @property
    def waits(self) -> bool:
        """Whether a request waits for a worker."""
        return bool(self.queued or self.held)

    @property
    def is_none(self) -> bool:
        """Whether nobody asks, nor has since the look before."""
        return not (self.waits or self.inflight or self.fresh)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingState:
    """Since when each pool has been short of room or had some to spare. Soft."""

    short_since_s: Mapping[str, float] = field(default_factory=dict)
    spare_since_s: Mapping[str, float] = field(default_factory=dict)


def scale(
    pools: Sequence[PoolLoad], demand: Demand, spec: ScalingSpec, state: ScalingState, *, now_s: float
) -> tuple[dict[str, int], ScalingState]:
    """Wanted sizes, and the state for the next time."""
    wanted: dict[str, int] = {}
    short: dict[str, float] = {}
    spare: dict[str, float] = {}
    for pool in pools:
        size = pool.replicas
        if is_short(pool, demand, spec):
            short[pool.name] = state.short_since_s.get(pool.name, now_s)
        elif has_spare(pool, demand):
            spare[pool.name] = state.spare_since_s.get(pool.name, now_s)
        if not pool.replicas:
            size = int(demand.waits)  # at once: somebody is held for it
        elif pool.name in short and now_s - short[pool.name] >= spec.up_after_s and pool.ready >= pool.replicas:
            size = grown(pool)
            del short[pool.name]  # the next step waits for its own turn
        elif pool.name in spare and now_s - spare[pool.name] >= spec.down_after_s:
            size = pool.replicas - 1
            del spare[pool.name]
        wanted[pool.name] = min(max(size, pool.min), pool.max)
    if spec.flips:
        ripe = {name for name, since_s in spare.items() if now_s - since_s >= spec.up_after_s}
        shift(pools, wanted, ripe)
    return wanted, replace(state, short_since_s=short, spare_since_s=spare)


def shift(pools: Sequence[PoolLoad], wanted: dict[str, int], ripe: set[str]) -> None:
    """Where one pool grows and a relative has room to spare, a worker changes sides and none is started."""
    for grower in pools:
        donors = [
            pool
            for pool in pools
            if pool.name in ripe
            and pool.kin == grower.kin
            and pool.role is not grower.role
            and Role.ENCODE not in {pool.role, grower.role}
            and wanted[pool.name] == pool.replicas > pool.min
        ]
        if wanted[grower.name] > grower.replicas > 0 and donors:
            donor = min(donors, key=lambda pool: (pool.load, pool.name))
            wanted[donor.name] -= 1
            wanted[grower.name] = grower.replicas + 1


def is_short(pool: PoolLoad, demand: Demand, spec: ScalingSpec) -> bool:
    """Whether a pool is too full, or its phase makes too many requests miss their objective."""
    if not pool.ready:
        return False
    if pool.load > HIGH:
        return True
    allowed = demand.ended * (1 - spec.attainment_percent_min / 100)
    # A miss without any load is a slow model or a tight objective: more workers would not help.
    return pool.load > LOW and misses(pool, demand) > allowed


def has_spare(pool: PoolLoad, demand: Demand) -> bool:
    """Whether the others would still be below LOW without one worker; the last one is spare when nobody asks."""
    if pool.replicas == 1:
        return pool.min == 0 and demand.is_none
    if pool.ready < max(2, pool.replicas) or demand.queued:
        return False
    return pool.load * pool.ready / (pool.ready - 1) < LOW


def misses(pool: PoolLoad, demand: Demand) -> int:
    """Misses of the objective that a pool's phase decides: TTFT for prefill, TPOT for decode."""
    match pool.role:
        case Role.PREFILL | Role.ENCODE:
            return demand.ttft_misses
        case Role.DECODE:
            return demand.tpot_misses
        case Role.MIXED:
            return max(demand.ttft_misses, demand.tpot_misses)


def grown(pool: PoolLoad) -> int:
    """The size at which the present load would be GROW_TO; at least one more, at most twice as many."""
    fitting = math.ceil(pool.ready * pool.load / GROW_TO)
    return min(max(fitting, pool.replicas + 1), 2 * pool.replicas)


def worker_load(worker: WorkerView, role: Role) -> float:
    """How full one worker is for the work of `role`."""
    info, load = worker.info, worker.load
    batch = load.running_sequences / max(1, info.batch_sequences_max)
    waiting = load.waiting_sequences / max(1, info.batch_sequences_max)
    kv = 1 - load.free_blocks / info.blocks if info.blocks else 0.0
    line = worker.sequences / PROMPTS_IN_LINE
    match role:
        case Role.PREFILL | Role.ENCODE:
            return max(line, kv)
        case Role.DECODE:
            return max(batch + waiting, kv)
        case Role.MIXED:
            return max(batch + waiting, kv, load.waiting_sequences / PROMPTS_IN_LINE)
