"""How queues and load looked over a run: a sample of every kind of replica at even moments.

Decides nothing. Next: `report.py`, which draws it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sluice.simulator.instance import Instance

SAMPLES: Final = 240


@dataclass(slots=True)
class PoolSamples:
    """One kind of replica over time, means per replica."""

    waiting: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    kv_share: list[float] = field(default_factory=list)  # of blocks in use


class Timeline:
    """Samples of one run."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self.unplaced: list[int] = []  # requests that wait for a place
        self.pools: dict[str, PoolSamples] = {}

    def sample(self, now_s: float, instances: Sequence[Instance], *, unplaced: int) -> None:
        """Note how it is now."""
        self.times_s.append(now_s)
        self.unplaced.append(unplaced)
        by_kind: dict[str, list[Instance]] = {}
        for instance in instances:
            by_kind.setdefault(instance.spec.name, []).append(instance)
        for name, group in by_kind.items():
            pool = self.pools.setdefault(name, PoolSamples())
            pool.waiting.append(sum(len(one.prefills.waiting) for one in group) / len(group))
            pool.running.append(sum(one.running for one in group) / len(group))
            used = sum(1 - one.ledger.available / one.ledger.blocks for one in group)
            pool.kv_share.append(used / len(group))
