"""What the operator asks of a service's routers, and what they answer. Real ones: `router_calls.py`.

Values only; decides nothing. Next: `observation.py`, which puts pods and workers together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sluice.domain.load import WorkerInfo, WorkerLoad
from sluice.domain.role import Lifecycle, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A worker as a router sees it now."""

    router: str  # address of a router it is connected to: host only
    info: WorkerInfo
    load: WorkerLoad

    @property
    def worker(self) -> str:
        """Its pod's name."""
        return self.info.worker

    @property
    def role(self) -> Role:
        """What it admits."""
        return self.info.role

    @property
    def lifecycle(self) -> Lifecycle:
        """Where it is in its life."""
        return self.load.lifecycle

    @property
    def fingerprint(self) -> str:
        """Workers of equal ones can take over from each other."""
        return self.info.model_fingerprint

    @property
    def sequences(self) -> int:
        """Sequences that are on it."""
        return self.load.running_sequences + self.load.waiting_sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a service's routers have counted since they started, summed; and what waits now."""

    queued: int = 0
    inflight: int = 0  # accepted and not ended, those that wait included
    held: int = 0  # until a first worker serves; not accepted yet
    ended: int = 0
    good: int = 0  # ended and met every objective
    ttft_misses: int = 0
    tpot_misses: int = 0
    output_tokens: int = 0
    moved: int = 0  # running sequences that changed their worker


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterReport:
    """What all routers of a service said; a router that does not answer is left out."""

    workers: tuple[WorkerView, ...] = ()
    traffic: Traffic | None = None  # None: no router answered


class Routers(Protocol):
    """The routers of services, by address. Calls about one worker raise SluiceError when they are refused."""

    async def look(self, addresses: Sequence[str]) -> RouterReport:
        """Ask all of them at once; never raises."""
        ...

    async def drain(self, worker: WorkerView, *, deadline_s: float) -> None:
        """Begin to empty a worker; returns at once."""
        ...

    async def resume(self, worker: WorkerView) -> None:
        """A worker may admit work again."""
        ...

    async def flip(self, worker: WorkerView, role: Role) -> None:
        """Give a worker that is empty, or whose work the new role includes, another role."""
        ...
