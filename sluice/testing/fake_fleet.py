"""A router with fake workers in this process, for tests: real HTTP, real gRPC, no engine.

    async with running_fleet(model_directory, roles=(Role.PREFILL, Role.DECODE)) as fleet: ...

Everything is stopped when the block is left. Never sleeps for timing: it waits for states.
Next: `fake_worker.py`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from sluice.clock import SystemClock
from sluice.config.router import RouterConfig
from sluice.domain.role import Role
from sluice.router import process
from sluice.router.process import RunningRouter
from sluice.testing.fake_worker import FakeSettings, FakeWorker

PATIENCE_S: Final = 20.0


@dataclass(slots=True)
class FakeFleet:
    """A running router and its fakes, by name."""

    router: RunningRouter
    workers: dict[str, FakeWorker] = field(default_factory=dict)
    peers: dict[str, FakeWorker] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where HTTP is served, without a slash at the end."""
        return f"http://127.0.0.1:{self.router.http_port}"

    @property
    def grpc_address(self) -> str:
        """Where gRPC is served."""
        return f"127.0.0.1:{self.router.grpc_port}"

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight anywhere."""
        fakes = self.workers.values()
        is_router_idle = self.router.dispatcher.sequences == 0 and self.router.dispatcher.waiting == 0
        return is_router_idle and not any(fake.running or fake.held for fake in fakes)

    async def add(self, settings: FakeSettings) -> FakeWorker:
        """Connect one more worker and wait until it is ready."""
        fake = FakeWorker(settings, peers=self.peers)
        self.workers[settings.worker] = fake
        self._tasks[settings.worker] = asyncio.create_task(_serve(fake, self.grpc_address), name=settings.worker)
        await self.wait_until(lambda: self._is_ready(fake))
        return fake

    async def crash(self, worker: str) -> None:
        """Cut a worker's stream, as if its process had died, and wait until the router knows."""
        fake, task = self.workers.pop(worker), self._tasks.pop(worker)
        task.cancel()
        await asyncio.wait({task})
        fake.running.clear()
        await self.wait_until(lambda: all(member.info.boot != fake.boot for member in self.router.dispatcher.fleet))

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Let everything run until `condition` holds. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - conditions of many objects have no event
                await asyncio.sleep(0.002)

    async def close(self) -> None:
        """Disconnect every worker."""
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    def _is_ready(self, fake: FakeWorker) -> bool:
        members = self.router.dispatcher.fleet
        return any(member.info.boot == fake.boot and member.is_ready for member in members)


async def _serve(fake: FakeWorker, address: str) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError):
        await fake.serve(address)


@contextlib.asynccontextmanager
async def running_fleet(
    model: Path, *, roles: Sequence[Role] = (Role.MIXED,), itl_s: float = 0.001, **config: object
) -> AsyncIterator[FakeFleet]:
    """A router on free ports with one ready fake per role, named e.g. `prefill-0`. `config` are RouterConfig fields."""
    settings = RouterConfig(model_path=str(model), model_name="fake", http_port=0, grpc_port=0, **config)  # type: ignore[arg-type]
    async with process.serve(settings, clock=SystemClock()) as router:
        fleet = FakeFleet(router)
        try:
            for number, role in enumerate(roles):
                await fleet.add(FakeSettings(worker=f"{role.value}-{number}", role=role, itl_s=itl_s))
            yield fleet
        finally:
            await fleet.close()
