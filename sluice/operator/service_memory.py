"""What the operator remembers of a service between looks: recent counts, and for how long pools have been short.

All of it may be lost: measuring starts anew, and scaling waits its times again. Reads no clock.
Next: `scaling.py`.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sluice.domain.role import Role
from sluice.operator.accept import AcceptedPool, AcceptedService
from sluice.operator.observation import Observation, Stage
from sluice.operator.routers import Traffic
from sluice.operator.scaling import Demand, PoolLoad, ScalingState, scale, worker_load
from sluice.operator.service_plan import kin_of
from sluice.operator.status import Measured

WINDOW_S: Final = 300.0
SAMPLES_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class Sample:
    """Counts at one time, and the dollars spent until then."""

    at_s: float
    traffic: Traffic
    dollars: float


@dataclass(slots=True)
class ServiceMemory:
    """One service's recent past."""

    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES_MAX))
    scaling: ScalingState = field(default_factory=ScalingState)
    drift_written_s: float = float("-inf")

    def scale(
        self, service: AcceptedService, seen: Observation, asked: Mapping[str, int], *, now_s: float
    ) -> dict[str, int]:
        """Wanted pool sizes: as asked, unless the platform scales this service."""
        spec = service.spec.scaling
        traffic = seen.report.traffic
        ended_before = self.samples[-1].traffic.ended if self.samples else 0
        self._note(service, seen, now_s=now_s)
        if spec is None or traffic is None:
            return dict(asked)
        first = self.samples[0].traffic if self.samples else traffic
        demand = Demand(
            queued=traffic.queued,
            inflight=traffic.inflight,
            held=traffic.held,
            fresh=max(0, traffic.ended - ended_before),
            ended=traffic.ended - first.ended,
            ttft_misses=traffic.ttft_misses - first.ttft_misses,
            tpot_misses=traffic.tpot_misses - first.tpot_misses,
        )
        pools = [_pool_load(pool, seen, replicas=asked[pool.name]) for pool in service.pools]
        wanted, self.scaling = scale(pools, demand, spec, self.scaling, now_s=now_s)
        return wanted

    def measure(self, service: AcceptedService, seen: Observation, *, now_s: float) -> Measured:
        """Attainment and cost over the window."""
        traffic = seen.report.traffic
        assert service.pools, "an accepted service has pools"
        if traffic is None or not self.samples:
            return Measured()
        first, last = self.samples[0], self.samples[-1]
        assert last.at_s <= now_s
        ended = last.traffic.ended - first.traffic.ended
        tokens = last.traffic.output_tokens - first.traffic.output_tokens
        good = last.traffic.good - first.traffic.good
        dollars = last.dollars - first.dollars
        return Measured(
            attainment_percent=round(100 * good / ended, 1) if ended else None,
            dollars_per_million_tokens=round(dollars / tokens * 1e6, 2) if tokens and dollars else None,
            running=max(0, traffic.inflight - traffic.queued),
            queued=traffic.queued + traffic.held,
            moved=last.traffic.moved - first.traffic.moved,
        )

    def may_write_drift(self, now_s: float, *, every_s: float) -> bool:
        """Whether it is time to write fields that always move; if so, the time is noted."""
        if now_s - self.drift_written_s < every_s:
            return False
        self.drift_written_s = now_s
        return True

    def _note(self, service: AcceptedService, seen: Observation, *, now_s: float) -> None:
        traffic = seen.report.traffic
        if traffic is None:
            return
        last = self.samples[-1] if self.samples else None
        if last is not None and (traffic.ended < last.traffic.ended or traffic.moved < last.traffic.moved):
            self.samples.clear()  # a router has restarted: its counts began anew
            last = None
        price = sum(_price(service, member.pool) for member in seen.members)
        spent = 0.0 if last is None else last.dollars + price * (now_s - last.at_s) / 3600
        self.samples.append(Sample(now_s, traffic, spent))
        while self.samples[0].at_s < now_s - WINDOW_S:
            self.samples.popleft()


def _price(service: AcceptedService, pool: str) -> float:
    return next((one.price_per_hour for one in service.pools if one.name == pool), 0.0)


def _pool_load(pool: AcceptedPool, seen: Observation, *, replicas: int) -> PoolLoad:
    role = Role(pool.role)
    ready = [one.pod for one in seen.members if one.pool == pool.name and one.stage is Stage.READY]
    workers = seen.workers
    loads = [worker_load(workers[name], role) for name in ready if name in workers]
    bounds = pool.spec.replicas
    return PoolLoad(
        name=pool.name,
        role=role,
        replicas=replicas,
        min=bounds.min,
        max=bounds.top,
        ready=len(loads),
        load=sum(loads) / len(loads) if loads else 0.0,
        kin=kin_of(pool),
    )
