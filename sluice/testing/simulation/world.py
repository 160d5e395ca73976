"""A whole platform in one event loop: who exists, how it is started, broken and asked.

    world = World(Setting(seed=7, workers=...)); world.run(script)

Everything random comes from one generator of the seed, everything timed from one virtual clock, so
a seed is a history. Keeps a short log of what was done to whom. Next: `faults.py`, `scenario.py`.
"""

import asyncio
import logging
import random
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc

from sluice.domain.ids import BootId, RequestId, RouterId
from sluice.errors import IllegalTransitionError, SluiceError
from sluice.policy.joint import Joint
from sluice.policy.policy import Policy
from sluice.router.flow import Flow
from sluice.testing.simulation.checkers import Checkers
from sluice.testing.simulation.clients import Client
from sluice.testing.simulation.network import Network
from sluice.testing.simulation.sim_router import SimRouter
from sluice.testing.simulation.sim_worker import SimWorker, WorkerPlan, WorkerSurroundings
from sluice.testing.simulation.virtual_loop import Process, VirtualLoop
from sluice.testing.simulation.virtual_mover import VirtualMover
from sluice.testing.simulation.weather import CALM, Weather

START_S_MAX: Final = 30.0
LOOK_S: Final = 0.05
RECOVERY_S_MAX: Final = 40.0


@dataclass(slots=True)
class LocalClock:
    """One process's monotonic clock: off by something, and a little fast or slow."""

    loop: VirtualLoop
    offset_s: float
    rate: float

    def now_s(self) -> float:
        return self.offset_s + self.loop.time() * self.rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a run starts from."""

    seed: int
    workers: tuple[WorkerPlan, ...]
    routers: int = 1
    weather: Weather = CALM
    policy: Callable[[], Policy] = lambda: Joint(split_tokens_min=2)
    restart_s: float = 1.0  # how long a dead process takes to come back
    never_ready: frozenset[str] = frozenset()  # workers that cannot do their part, by name


class World:
    """Processes, network, clients, laws."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.rng = random.Random(setting.seed)
        self.loop = VirtualLoop(executor_s=lambda: 0.002 * self.rng.random())
        self.loop.on_task_error = self._on_task_error
        self.loop.set_exception_handler(lambda _, context: self.checkers.fail(f"callback: {context}"))
        self.checkers = Checkers()
        self.log_lines: list[str] = []
        self.network = Network(self.loop, self.rng, self._quiet(), self.log)  # platforms start on quiet days
        self.workers: dict[str, SimWorker] = {}
        self.routers: dict[str, SimRouter] = {}
        self.clients: list[Client] = []
        self.is_restarting = True
        self._processes: list[Process] = []
        self._incarnations = 0
        self._movers: dict[BootId, VirtualMover] = {}
        addresses = [f"r{index}" for index in range(setting.routers)]
        self._around = WorkerSurroundings(
            network=self.network,
            watcher=self.checkers,
            movers=self._movers,
            pools={},
            routers=addresses,
            step_s=lambda: 0.005 + 0.02 * self.rng.random(),
        )
        self._addresses = addresses
        self._plans = {plan.name: plan for plan in setting.workers}

    # ---------------------------------------------------------------- running

    def run(self, script: Callable[["World"], Coroutine[Any, Any, None]]) -> None:
        """Start everything, run `script` to its end, take everything apart."""
        handler = _Errors(self.checkers.fail)
        logger = logging.getLogger("sluice")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR)
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._run(script))
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            asyncio.set_event_loop(None)
            self.loop.close()

    async def _run(self, script: Callable[["World"], Coroutine[Any, Any, None]]) -> None:
        for address in self._addresses:
            self.start_router(address)
        for name in self._plans:
            self.start_worker(name)
        try:
            if await self.wait_until(self._is_up, within_s=START_S_MAX):
                self.network.weather = self.setting.weather
                await script(self)
            else:
                self.checkers.fail(f"the platform is not up after {START_S_MAX} s")
        finally:
            self.is_restarting = False
            for process in self._processes:
                process.kill()
            for _ in range(3):
                await asyncio.sleep(30.0)
                for process in self._processes:
                    process.kill()
            for process in self._processes:
                for task in process.tasks:
                    self.checkers.fail(f"task {task.get_name()} of {process.name} cannot be cancelled")

    async def wait_until(self, condition: Callable[[], bool], *, within_s: float, look_s: float = LOOK_S) -> bool:
        """Let time pass until `condition` holds, a law is broken, or time is up; whether it holds."""
        until_s = self.loop.time() + within_s
        while not condition():
            if self.checkers.broken or self.loop.time() >= until_s:
                return False
            await asyncio.sleep(look_s)
        return True

    def log(self, what: str) -> None:
        """Add a line to the run's history."""
        self.log_lines.append(f"{self.loop.time():9.4f} {what}")

    def _on_task_error(self, task: "asyncio.Task[Any]", error: BaseException) -> None:
        """Named failures are somebody's answer; anything else is a bug."""
        is_named = isinstance(error, SluiceError | grpc.RpcError) and not isinstance(error, IllegalTransitionError)
        if not is_named:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.checkers.fail(f"task {task.get_name()} raised {error!r} at {where.name}, line {where.lineno}")

    def _is_up(self) -> bool:
        names = self._plans.keys() - self.setting.never_ready
        return len(self.routers) == len(self._addresses) and all(
            {member.name for member in router.dispatcher.fleet if member.is_ready} == names
            for router in self.routers.values()
        )

    # ---------------------------------------------------------------- processes

    def start_worker(self, name: str) -> None:
        """A new incarnation of a worker."""
        self._incarnations += 1
        boot = BootId(f"{name}.{self._incarnations}")
        process = self._process(name)
        clock = self._clock()
        self.log(f"{boot} starts")

        async def live() -> None:
            worker = self.workers[name] = SimWorker(
                self._plans[name], self._around, process=process, boot=boot, clock=clock
            )
            why = await worker.run()
            self.log(f"{boot} gives itself up: {why}")
            if "quarantine" not in why:
                self.checkers.fail(f"{boot} died of {why}")
            self.later(0.0, self.crash_worker, name)

        process.start(live(), name=f"worker {name}")

    def start_router(self, address: str) -> None:
        """A new incarnation of a router."""
        self._incarnations += 1
        process = self._process(address)
        router = RouterId(f"router-{self.setting.seed}-{self._incarnations}")
        self.log(f"{router} starts at {address}")

        async def live() -> None:
            self.routers[address] = one = SimRouter(
                self.network,
                process=process,
                address=address,
                router=router,
                clock=self._clock(),
                policy=self.setting.policy(),
            )
            await one.run()

        process.start(live(), name=f"router {address}")

    def crash_worker(self, name: str, *, is_silent: bool = False, restart_s: float | None = None) -> None:
        """SIGKILL, now. It comes back after a while."""
        worker = self.workers[name]
        if not worker.process.is_alive:
            return
        self.log(f"{worker.boot} is killed{' with its machine' if is_silent else ''}")
        self._kill(worker.process, is_silent=is_silent)
        self.later(self.setting.restart_s if restart_s is None else restart_s, self._restart, self.start_worker, name)

    def crash_router(self, address: str) -> None:
        """SIGKILL, now; its clients lose their connections."""
        router = self.routers[address]
        if not router.process.is_alive:
            return
        self.log(f"{address} is killed")
        self._kill(router.process, is_silent=False)
        self.later(self.setting.restart_s, self._restart, self.start_router, address)

    def pause(self, process: Process, for_s: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        if process.is_alive and not process.is_paused:
            self.log(f"{process.name} stands still for {for_s:.2f} s")
            process.pause()
            self.network.paused(process, for_s)
            self.later(for_s, process.unpause)

    def calm_down(self) -> None:
        """No more trouble: paths heal, the weather clears, everyone runs and admits work."""
        self.log("calm")
        self.network.weather = self._quiet()
        self.network.heal()
        for process in self._processes:
            if process.is_paused:
                process.unpause()
        for name in self.workers:
            self.resume_worker(name)

    def _quiet(self) -> Weather:
        """No trouble at all; what transports are made of stays."""
        return replace(CALM, is_one_sided=self.setting.weather.is_one_sided)

    def resume_worker(self, name: str) -> None:
        """A drained worker admits work again."""
        worker = self.workers[name]
        if worker.process.is_alive:
            worker.shell.standing.resume()

    def living_routers(self) -> list[SimRouter]:
        """Routers that run now."""
        return [router for router in self.routers.values() if router.process.is_alive and not router.process.is_paused]

    def later(self, after_s: float, function: Callable[..., object], *args: object) -> None:
        """Call a function in `after_s`, as nobody's."""
        self.network.later(self.loop.time() + after_s, function, *args)

    def running(self) -> list[tuple[SimRouter, Flow]]:
        """Every sequence in flight at a living router."""
        return [
            (router, flow)
            for router in self.living_routers()
            for client in self.clients
            for choice in range(client.n)
            if (flow := router.dispatcher.find(RequestId(client.name), choice)) is not None
        ]

    def _process(self, name: str) -> Process:
        process = Process(name, self.loop)
        self._processes.append(process)
        return process

    def _kill(self, process: Process, *, is_silent: bool) -> None:
        process.kill()
        self.network.crashed(process, is_silent=is_silent)

    def _restart(self, start: Callable[[str], None], name: str) -> None:
        if self.is_restarting:
            start(name)

    def _clock(self) -> LocalClock:
        weather = self.setting.weather
        offset_s = 1000.0 + weather.skew_s * (2 * self.rng.random() - 1)
        return LocalClock(self.loop, offset_s, 1.0 + weather.drift * (2 * self.rng.random() - 1))

    # ---------------------------------------------------------------- clients

    def ask(self, client: Client, address: str = "r0") -> None:
        """A client sends its request to a router."""
        self.clients.append(client)
        router = self.routers[address]
        if router.process.is_alive:
            self._send(client, router)
        else:
            client.error, client.is_over = "connection refused", True

    def _ask_again(self, client: Client) -> None:
        """It comes back to whichever router serves by now."""
        serving = [router for router in self.living_routers() if not router.dispatcher.door.unready()]
        if serving:
            router = self.rng.choice(serving)
            self.log(f"{client.name} comes back to {router.process.name} with {client.seen_tokens} tokens")
            self._send(client, router)
        elif self.is_restarting:
            self.later(0.5, self._ask_again, client)

    def _send(self, client: Client, router: SimRouter) -> None:
        task = router.process.start(client.ask(router), name=f"client {client.name}")
        task.add_done_callback(lambda _: self._gone(client))

    def _gone(self, client: Client) -> None:
        if not client.error and not client.is_answered:
            if client.returns and self.is_restarting:
                client.returns, client.is_back = client.returns - 1, True
                self.later(2 * self.rng.random(), self._ask_again, client)
                return
            client.error = "connection reset"
        client.is_over = True
        self.log(f"{client.name} ends with {client.seen_tokens} tokens; {client.error or 'whole'}")
        self.checkers.broken += client.problems

    async def wait_quiet(self, *, within_s: float) -> None:
        """Every client has its answer soon, well before any deadline, and nothing is held anywhere in bounded time."""
        if not await self.wait_until(lambda: all(client.is_over for client in self.clients), within_s=RECOVERY_S_MAX):
            late = [client.name for client in self.clients if not client.is_over]
            self.checkers.fail(f"still waiting after {RECOVERY_S_MAX:g} s of calm: {', '.join(late)}")
            return
        if not await self.wait_until(lambda: not self.leftovers(), within_s=within_s):
            for line in self.leftovers():
                self.checkers.fail(f"left over after {within_s:g} s of calm: {line}")

    def leftovers(self) -> list[str]:
        """Everything that is not at rest."""
        alive_workers = [worker for worker in self.workers.values() if worker.process.is_alive]
        alive_routers = [router for router in self.routers.values() if router.process.is_alive]
        return self.checkers.leftovers(alive_workers, alive_routers)


class _Errors(logging.Handler):
    """The real code logs an error only when something is broken: so it is for us."""

    def __init__(self, fail: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._fail = fail

    def emit(self, record: logging.LogRecord) -> None:
        cause = f": {record.exc_info[1]!r}" if record.exc_info else ""
        self._fail(f"logged as an error: {record.getMessage()}{cause}")
