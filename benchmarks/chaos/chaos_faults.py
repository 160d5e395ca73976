"""What goes wrong, when and to whom: drawn from a seed, carried out on a running local platform.

`draw` is pure: a seed is a list of faults, the same every time. `Saboteur` carries them out and
undoes them; faults overlap, but somebody who can decode and one router are always left alone. Every
fault is printed when it happens. Next: `chaos_load.py`, who suffers them.
"""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

import grpc

from sluice.cli.local_fleet import LocalFleet
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

ROLES: Final = ("prefill", "decode", "mixed")
DRAIN_DEADLINE_S: Final = 3.0
CALL_S_MAX: Final = 12.0
MOVES: Final = 4  # requests moved by one fault
UP_S_MAX: Final = 240.0


class Kind(Enum):
    """What may go wrong."""

    KILL = "kill -9 and restart"
    STOP = "stop and continue"
    DRAIN = "drain and resume"
    FLIP = "flip the role"
    MIGRATE = "migrate requests"
    RECOMPUTE = "compute requests elsewhere"
    KILL_ROUTER = "kill -9 a router and restart"


WEIGHTS: Final = {
    Kind.KILL: 3,
    Kind.STOP: 3,
    Kind.DRAIN: 2,
    Kind.FLIP: 1,
    Kind.MIGRATE: 6,
    Kind.RECOMPUTE: 1,
    Kind.KILL_ROUTER: 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong, `after_s` the one before. `who` in [0, 1) chooses among those it can hit."""

    after_s: float
    kind: Kind
    who: float
    lasts_s: float


def draw(seed: int, *, every_s: float) -> Iterator[Fault]:
    """Faults without end, `every_s` apart in the mean."""
    rng = random.Random(seed)
    while True:
        kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        lasts_s = rng.choice([0.1, 0.5, 1.0, 2.5, 6.0]) if kind is Kind.STOP else rng.uniform(0.0, 1.5)
        yield Fault(after_s=rng.expovariate(1 / every_s), kind=kind, who=rng.random(), lasts_s=round(lasts_s, 2))


class Saboteur:
    """Carries faults out on `fleet`. `run` until cancelled, then `mend`."""

    def __init__(self, fleet: LocalFleet, *, down_max: int) -> None:
        """At most `down_max` workers are dead, stopped, draining or flipping at the same time."""
        self.counts = dict.fromkeys(Kind, 0)
        self.restarts = 0  # of workers that ended by themselves: too much in quarantine
        self._fleet = fleet
        self._roles = dict(fleet.plan.roles())
        self._down_max = down_max
        self._kv_ports: dict[str, int] = {}
        self._down: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started_s = time.monotonic()

    async def run(self, faults: Iterator[Fault]) -> None:
        """One fault after another, for ever."""
        await self._learn_ports()
        for fault in faults:
            await asyncio.sleep(fault.after_s)
            self._revive()
            if (work := self._begin(fault)) is not None:
                self.counts[fault.kind] += 1
                task = asyncio.create_task(work, name=fault.kind.value)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def mend(self) -> None:
        """Undo what is under way, then give everyone its role back and see all of them ready."""
        await asyncio.gather(*list(self._tasks))
        deadline_s = time.monotonic() + UP_S_MAX
        while True:
            self._revive()
            with contextlib.suppress(grpc.RpcError, TimeoutError):
                if await self._restore():
                    return
            assert time.monotonic() < deadline_s, "the platform has not come back"
            await asyncio.sleep(0.5)

    async def _restore(self) -> bool:
        """Whether every worker is ready in its own role at every router; asks for what is missing."""
        is_whole = True
        for router in range(len(self._fleet.routers)):
            rows = {row.info.worker: row for row in await self._workers(router)}
            for name, role in self._roles.items():
                row = rows.get(name)
                if row is None:
                    is_whole = False
                elif row.load.lifecycle != "ready":
                    is_whole = False
                    await self._resume(router, name)
                elif (row.load.role or row.info.role) != role:
                    is_whole = False
                    await self._flip(router, name, role)
        return is_whole

    # ---------------------------------------------------------------- faults

    def _begin(self, fault: Fault) -> Coroutine[None, None, None] | None:
        """Whoever it hits now; None if nobody can be spared."""
        match fault.kind:
            case Kind.KILL_ROUTER:
                name = self._router_to_spare(fault)
                return self._kill_router(name, fault) if name else None
            case Kind.MIGRATE | Kind.RECOMPUTE:
                return self._move(fault)
            case Kind.KILL:
                name = self._worker_to_spare(fault)
                return self._kill(name, fault) if name else None
            case Kind.STOP:
                name = self._worker_to_spare(fault)
                return self._stop(name, fault) if name else None
            case Kind.DRAIN | Kind.FLIP:
                name = self._worker_to_spare(fault)
                return self._leave(name, fault) if name else None
            case _:
                assert_never(fault.kind)

    def _router_to_spare(self, fault: Fault) -> str:
        """A router, while another one is left; "" if there is none to spare."""
        names = [router.name for router in self._fleet.routers]
        return "" if len(names) < 2 or self._down & set(names) else names[int(fault.who * len(names))]

    def _worker_to_spare(self, fault: Fault) -> str:
        """A worker, while enough are left and one of them can decode; "" if there is none to spare."""
        up = [name for name in sorted(self._roles) if name not in self._down]
        if len(up) <= len(self._roles) - self._down_max:
            return ""
        name = up[int(fault.who * len(up))]
        return name if any(self._roles[other] != "prefill" for other in up if other != name) else ""

    async def _kill(self, name: str, fault: Fault) -> None:
        with self._hit(name, fault):
            self._fleet.children[name].kill()
            await asyncio.sleep(fault.lasts_s)
            self._fleet.restart(name, kv_port=self._kv_ports.get(name, 0))
            for _ in range(round(UP_S_MAX)):  # the next may be hit when this one serves, however slow the machine
                await asyncio.sleep(1.0)
                if await self._serves(name):
                    return

    async def _serves(self, name: str) -> bool:
        """Whether a router that can be asked calls this worker ready."""
        for router in range(len(self._fleet.routers)):
            with contextlib.suppress(grpc.RpcError):
                if any(row.info.worker == name and not row.load.unready for row in await self._workers(router)):
                    return True
        return False

    async def _kill_router(self, name: str, fault: Fault) -> None:
        with self._hit(name, fault):
            self._fleet.children[name].kill()
            await asyncio.sleep(fault.lasts_s)
            self._fleet.restart(name)
            number = [router.name for router in self._fleet.routers].index(name)
            for _ in range(round(UP_S_MAX)):  # the other one may be next only when workers have come back to this one
                await asyncio.sleep(1.0)
                with contextlib.suppress(grpc.RpcError):
                    if len(await self._workers(number)) >= len(self._roles) - len(self._down):
                        return

    async def _stop(self, name: str, fault: Fault) -> None:
        with self._hit(name, fault):
            pid = self._fleet.children[name].pid
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(fault.lasts_s)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def _leave(self, name: str, fault: Fault) -> None:
        """Drain a worker and take it back, as it was or in another role."""
        router = int(fault.who * 1000) % len(self._fleet.routers)
        with self._hit(name, fault), contextlib.suppress(grpc.RpcError, TimeoutError):
            if fault.kind is Kind.FLIP:
                others = [role for role in ROLES if role != self._roles[name]]
                await self._flip(router, name, others[int(fault.who * 100) % 2])
                await asyncio.sleep(fault.lasts_s)
                await self._flip(router, name, self._roles[name])
                return
            async with grpc.aio.insecure_channel(self._address(router)) as channel:
                request = pb.DrainRequest(worker=name, deadline_s=DRAIN_DEADLINE_S)
                async for event in rpc.AdminStub(channel).Drain(request, timeout=CALL_S_MAX):
                    if event.lifecycle in {"drained", "gone"}:
                        break
            await asyncio.sleep(fault.lasts_s)
            await self._resume(router, name)

    async def _move(self, fault: Fault) -> None:
        router = int(fault.who * 1000) % len(self._fleet.routers)
        is_recompute = fault.kind is Kind.RECOMPUTE
        with contextlib.suppress(grpc.RpcError):
            async with grpc.aio.insecure_channel(self._address(router)) as channel:
                admin = rpc.AdminStub(channel)
                reply = await admin.GetRequests(pb.GetRequestsRequest(limit=100), timeout=CALL_S_MAX)
                running = [row for row in reply.requests if row.state in {"prefill", "decode"}]
                first = int(fault.who * len(running))
                for row in itertools.islice(itertools.cycle(running), first, first + min(MOVES, len(running))):
                    order = pb.MigrateRequest(request_id=row.request_id, choice=row.choice, recompute=is_recompute)
                    with contextlib.suppress(grpc.RpcError):  # it has ended, or moves already
                        await admin.Migrate(order, timeout=CALL_S_MAX)

    # ---------------------------------------------------------------- the platform

    @contextlib.contextmanager
    def _hit(self, name: str, fault: Fault) -> Iterator[None]:
        at_s = time.monotonic() - self._started_s
        print(f"{at_s:8.1f} s  {fault.kind.value}: {name}, {fault.lasts_s} s", flush=True)
        self._down.add(name)
        try:
            yield
        finally:
            self._down.discard(name)

    def _revive(self) -> None:
        """A supervisor's part: start again who has ended by itself."""
        for name in self._roles:
            if name not in self._down and not self._fleet.children[name].is_alive():
                self.restarts += 1
                print(f"          {name} has ended by itself: {self._fleet.children[name].last_words()}", flush=True)
                self._fleet.restart(name)

    async def _learn_ports(self) -> None:
        for row in await self._workers(0):
            self._kv_ports[row.info.worker] = int(row.info.kv_address.rpartition(":")[2])

    def _address(self, router: int) -> str:
        return f"{self._fleet.plan.host}:{self._fleet.routers[router].grpc_port}"

    async def _workers(self, router: int) -> list[pb.WorkerRow]:
        async with grpc.aio.insecure_channel(self._address(router)) as channel:
            return list((await rpc.AdminStub(channel).GetWorkers(pb.GetWorkersRequest(), timeout=CALL_S_MAX)).workers)

    async def _flip(self, router: int, name: str, role: str) -> None:
        async with grpc.aio.insecure_channel(self._address(router)) as channel:
            request = pb.FlipRequest(worker=name, role=role, deadline_s=DRAIN_DEADLINE_S)
            await rpc.AdminStub(channel).Flip(request, timeout=CALL_S_MAX)

    async def _resume(self, router: int, name: str) -> None:
        async with grpc.aio.insecure_channel(self._address(router)) as channel:
            async for _ in rpc.AdminStub(channel).Drain(pb.DrainRequest(worker=name, resume=True), timeout=CALL_S_MAX):
                pass
