"""One question asked of the simulator: this trace on this fleet under these objectives, by policy, seed and rate.

Holds what all runs of a question share, so that policies meet the same requests. Decides nothing.
Next: `fleet_run.py` for one run, `summary.py` for its figures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sluice.policy.policy import Policy
from sluice.simulator.comparison import highest_rate
from sluice.simulator.fleet_run import FleetRun, RunResult
from sluice.simulator.instance_spec import InstanceSpec
from sluice.simulator.run_options import RunOptions
from sluice.simulator.summary import Goal, Summary, summarise
from sluice.simulator.workload import Workload

RATE_STEP: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The fixed part. `workload` gives a draw by seed; `policy` a fresh policy by name."""

    specs: Sequence[InstanceSpec]
    workload: Callable[[int], Workload]
    policy: Callable[[str], Policy]
    options: RunOptions
    goals: Sequence[Goal]

    def run(
        self, policy: str, *, seed: int, rate: float | None = None, on_progress: Callable[[int], None] | None = None
    ) -> RunResult:
        """One replay, at the trace's own rate or at `rate`."""
        workload = self.workload(seed)
        if rate is not None:
            workload = workload.at_rate(rate)
        run = FleetRun(specs=self.specs, workload=workload, policy=self.policy(policy), options=self.options)
        return run.run(on_progress)

    def summary(self, policy: str, *, seed: int, rate: float | None = None) -> Summary:
        """The figures of one replay."""
        return summarise(self.run(policy, seed=seed, rate=rate), self.goals)

    def rate_at(self, policy: str, *, seed: int, share: float, low: float, high: float) -> float:
        """The highest rate at which `share` of requests meet every goal, to 2 %; see comparison.highest_rate."""

        def attained(rate: float) -> float:
            return self.summary(policy, seed=seed, rate=rate).attained_all

        return highest_rate(attained, share=share, low=low, high=high, step=RATE_STEP)
