"""What a simulated run is told beside its fleet and its requests: objectives, delays, limits, mishaps.

Facts only. Next: `fleet_run.py`.
"""

from dataclasses import dataclass, field

import numpy as np

from sluice.domain.slo import STANDARD, SloClass
from sluice.policy.restraint import RestraintLimits
from sluice.simulator.encodes import EncodeRules
from sluice.simulator.instance_spec import InstanceSpec
from sluice.simulator.workload import FloatColumn, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What every request of a run is held against."""

    slo: SloClass = STANDARD
    itl_s: float = 0.2  # limit of a request's P99 gap between tokens
    classes: tuple[SloClass, ...] = ()  # of a workload whose requests name one, by its number; `slo` for the others

    def of(self, workload: Workload, index: int) -> SloClass:
        """The class of one request."""
        return self.classes[workload.slo_class[index]] if self.classes and len(workload.slo_class) else self.slo

    def limits(self, workload: Workload) -> tuple[FloatColumn | float, FloatColumn | float]:
        """TTFT and TPOT objectives of all requests, by index; one number each where all are of one class."""
        if not (self.classes and len(workload.slo_class)):
            return self.slo.ttft_s, self.slo.tpot_s
        ttft_s = np.array([each.ttft_s for each in self.classes])[workload.slo_class]
        return ttft_s, np.array([each.tpot_s for each in self.classes])[workload.slo_class]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An instance is lost at a moment, and back (empty) later."""

    slot: int
    at_s: float
    back_after_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """A replica is asked for at a moment, paid for from then on, and ready after its cold start (`spec.start_s`)."""

    spec: InstanceSpec
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A replica drains from a moment on, and is paid for until it is empty."""

    slot: int
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run behaves."""

    objective: Objective = field(default_factory=Objective)
    stale_s: float = 0.0  # between two heartbeats of an instance; 0: policies see the present
    tend_every_s: float = 0.1  # between two looks at what runs; 0: never
    retry_every_s: float = 0.05  # while requests wait for a place
    queue_s_max: float = 600.0  # a request waits no longer for a place
    after_s_max: float = 3600.0  # how long the fleet may run on after the last arrival
    output_tokens_max: int = 1 << 14  # what requests ask for at most: policies do not know what will come
    is_answer_asked: bool = False  # each request asks for just the tokens it gets, and policies see that
    is_overlapped: bool = True  # KV leaves layer group by layer group while the prompt is computed
    restraint: RestraintLimits = field(default_factory=RestraintLimits)  # of what policies move and flip
    encode: EncodeRules = field(default_factory=EncodeRules)
    flip_s: float = 1.0  # from empty to ready in another role
    failures: tuple[Failure, ...] = ()
    additions: tuple[Addition, ...] = ()
    removals: tuple[Removal, ...] = ()
