"""What must hold at every moment of a run, whatever happens, and what must be left at its end: nothing.

Each check names the law it holds. A broken law is recorded with the virtual time; the run then
stops at its next look. Never acts. Next: `world.py`, which calls them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sluice.domain.ids import BlockId
from sluice.engine.contract import StepReport
from sluice.kv_transfer.transport import Push
from sluice.testing.simulation.receiving import Receiving
from sluice.testing.simulation.sim_router import SimRouter
from sluice.testing.simulation.sim_worker import SimWorker


@dataclass
class Checkers:
    """The laws, and what has been seen of them so far."""

    broken: list[str] = field(default_factory=list)
    _choosers: dict[tuple[int, int, int], str] = field(default_factory=dict)

    def fail(self, what: str) -> None:
        """A law is broken."""
        self.broken.append(what)

    def on_step(self, boot: str, report: StepReport) -> None:
        """One owner: under one epoch, every token is chosen by one worker, once."""
        for out in report.tokens:
            key = (out.sequence, out.epoch, out.index)
            other = self._choosers.setdefault(key, boot)
            if other != boot:
                token = f"token {out.index} of {out.sequence} in epoch {out.epoch}"
                self.fail(f"two owners: {other} and {boot} both chose {token}")

    def on_landing(self, target: Receiving, worker: str, push: Push) -> None:
        """No reuse under transfer: bytes land only in blocks that are reserved for what is sent."""
        blocks = blocks_of(target, push)
        readers = target.readers(blocks)
        if not any(blocks <= table for table in target.reserved()):
            self.fail(f"bytes land on {worker} in unreserved blocks {sorted(blocks)}; there: {readers}")
        elif readers:
            self.fail(f"bytes land on {worker} in blocks {sorted(blocks)} that {readers} read")

    def leftovers(self, workers: Sequence[SimWorker], routers: Sequence[SimRouter]) -> list[str]:
        """Everything that is not at rest; empty once the platform is quiet."""
        return [line for worker in workers for line in worker.leftovers()] + [
            line for router in routers for line in router.leftovers()
        ]


def blocks_of(target: Receiving, push: Push) -> set[BlockId]:
    """The receiver's blocks that a push writes."""
    geometry = target.geometry
    group_bytes = geometry.block_bytes(0) * geometry.blocks
    first = push.descriptors.target % group_bytes // geometry.block_bytes(0)
    last = (push.descriptors.target + push.descriptors.length - 1) % group_bytes // geometry.block_bytes(0)
    return {BlockId(int(block)) for start, end in zip(first, last, strict=True) for block in np.arange(start, end + 1)}
