"""A whole platform on this machine: routers and workers as processes, the same programs as in a cluster.

Owns the children, their settings files and logs (in one temporary folder), and stops them all,
whatever happens. Next: `child.py`.
"""

import dataclasses
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import grpc

from sluice.cli.beside import BESIDE
from sluice.cli.child import Child
from sluice.cli.gpu_pools import WORKERS_MAX, EmulatedWorker, Role
from sluice.config import load
from sluice.config.router import PlacementConfig, RouterConfig, SloConfig
from sluice.config.telemetry import TelemetryConfig
from sluice.config.worker import EngineConfig, GpuConfig, ImagesConfig, TransferConfig, WorkerConfig
from sluice.errors import ConfigError, NoWorkerError
from sluice.kv_transfer import memory
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

START_S_MAX: Final = 300.0
STOP_GRACE_S: Final = 10.0
WORKER_GRACE_S: Final = 3.0  # nobody is left to move requests to when all stop at once
RESTARTS_MAX: Final = 3  # of one worker; more means that it cannot run here
ROUTER: Final = "router"
PORT_MAX: Final = 65_535
ROUTERS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class RouterPlace:
    """One router's name and ports."""

    name: str
    http_port: int
    grpc_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """What to start. Ports of 0 mean any free one."""

    model_path: Path
    model_name: str = ""
    prefill: int = 1
    decode: int = 1
    mixed: int = 0
    encode: int = 0  # of a model that sees
    encodes: frozenset[Role] | None = (
        None  # who encodes beside its own work; None: whoever computes prompts, if `encode` is 0
    )
    routers: int = 1  # the second listens two ports above the first, and so on
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    transfer: TransferConfig = dataclasses.field(default_factory=TransferConfig)
    telemetry: TelemetryConfig = dataclasses.field(default_factory=TelemetryConfig)
    placement: PlacementConfig = dataclasses.field(default_factory=PlacementConfig)
    slo: SloConfig = dataclasses.field(default_factory=SloConfig)
    emulate: str = ""  # the shape of a model; then `emulated` are the workers
    emulated: tuple[EmulatedWorker, ...] = ()

    def gpu_of(self, worker: str) -> GpuConfig:
        """What a worker is told of its GPU."""
        return next((each.gpu for each in self.emulated if each.name == worker), GpuConfig())

    @property
    def sees(self) -> bool:
        """Whether the model reads pictures, and is not emulated."""
        path = self.model_path / "config.json"
        return not self.emulate and path.is_file() and "vision_config" in json.loads(path.read_bytes())

    def images_of(self, role: Role) -> ImagesConfig:
        """What a worker of this role does with pictures."""
        usual: frozenset[Role] = frozenset() if self.encode else frozenset({"prefill", "mixed"})
        return ImagesConfig(encodes=self.sees and role in (usual if self.encodes is None else self.encodes))

    def members(self) -> list[str]:
        """Every worker that routers will know: encode workers that share a process have names of their own."""
        named = self.roles()
        return [
            *(name for name, _ in named),
            *(f"{name}{BESIDE}" for name, role in named if self.images_of(role).encodes),
        ]

    def roles(self) -> list[tuple[str, Role]]:
        """Every worker's name and role."""
        if self.emulated:
            return [(worker.name, worker.role) for worker in self.emulated]
        counts: list[tuple[Role, int]] = [("prefill", self.prefill), ("decode", self.decode), ("mixed", self.mixed)]
        counts.insert(0, ("encode", self.encode))
        workers = [(f"{role}-{i}", role) for role, count in counts for i in range(count)]
        if not 0 < len(workers) <= WORKERS_MAX:
            raise ConfigError(
                f"{len(workers)} workers asked for; start 1 to {WORKERS_MAX} (--encode, --prefill, --decode, --mixed)"
            )
        return workers


class LocalFleet:
    """A running platform; use as a context manager."""

    def __init__(self, plan: FleetPlan) -> None:
        self.plan = plan
        self._workers = plan.roles()
        self._folder: Path | None = None
        self._restarts = dict.fromkeys((worker for worker, _ in self._workers), 0)
        if not 0 < plan.routers <= ROUTERS_MAX:
            raise ConfigError(f"--routers: is {plan.routers}; use 1 to {ROUTERS_MAX}")
        self.routers = [_place(plan, number) for number in range(plan.routers)]
        self._restarts |= dict.fromkeys((router.name for router in self.routers), 0)
        self.http_port, self.grpc_port = self.routers[0].http_port, self.routers[0].grpc_port
        self.children: dict[str, Child] = {}

    @property
    def folder(self) -> Path:
        """Settings and logs of the children; there from start to stop."""
        assert self._folder is not None, "the platform has not been started"
        return self._folder

    @property
    def url(self) -> str:
        """Where OpenAI clients connect; the first router's."""
        return f"http://{self.plan.host}:{self.http_port}/v1"

    @property
    def grpc_address(self) -> str:
        """Where gRPC clients and `sluice get` connect; the first router's."""
        return f"{self.plan.host}:{self.grpc_port}"

    @property
    def urls(self) -> list[str]:
        """Where OpenAI clients may connect, router by router."""
        return [f"http://{self.plan.host}:{router.http_port}/v1" for router in self.routers]

    def __enter__(self) -> Self:
        for router in self.routers:
            check_port_free(self.plan.host, router.http_port, option="--port")
            check_port_free(self.plan.host, router.grpc_port, option="--grpc-port")
        http_ports = {router.http_port for router in self.routers}
        if clash := http_ports & {router.grpc_port for router in self.routers}:
            raise ConfigError(f"--grpc-port: is {min(clash)}, and so is --port; choose two")
        self._folder = Path(tempfile.mkdtemp(prefix="sluice-"))
        try:
            for router in self.routers:
                self._start_router(router)
            for worker, role in self._workers:
                self.start_worker(worker, role)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_worker(self, worker: str, role: Role, *, kv_port: int = 0) -> None:
        """Start one worker that will join the routers; its peers find it at `kv_port`, or at any free port."""
        threads = self.plan.engine.threads or max(1, (os.cpu_count() or 1) // len(self._workers))
        config = WorkerConfig(
            worker=worker,
            role=role,
            model_path=str(self.plan.model_path),
            model_name=self.plan.model_name,
            routers=tuple(f"{self.plan.host}:{router.grpc_port}" for router in self.routers),
            host=self.plan.host,
            kv_port=kv_port,
            stop_grace_s=WORKER_GRACE_S,
            emulate=self.plan.emulate,
            gpu=self.plan.gpu_of(worker),
            engine=dataclasses.replace(self.plan.engine, threads=threads),
            transfer=self.plan.transfer,
            images=self.plan.images_of(role),
            telemetry=self._telemetry(worker),
        )
        # Idle OpenMP threads that spin would take the cores from the other workers.
        self._start(worker, "worker", config, {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"})

    def wait_ready(self, on_progress: Callable[[Sequence[str]], None]) -> None:
        """Return when every worker has joined; `on_progress` hears who has, whenever that changes.

        Raises ChildDiedError with the child's last words, or NoWorkerError after START_S_MAX.
        """
        deadline_s = time.monotonic() + START_S_MAX
        joined: list[str] = []
        expected = set(self.plan.members())
        while len(joined) < len(expected):
            for child in self.children.values():
                child.check_alive()
            if time.monotonic() > deadline_s:
                missing = sorted(expected - set(joined))
                raise NoWorkerError(f"not ready after {START_S_MAX:.0f} s: {', '.join(missing)}; see {self.folder}")
            now_joined = self._joined()
            if now_joined != joined:
                joined = now_joined
                on_progress(joined)
            time.sleep(0.1)

    def restart_lost(self) -> list[str]:
        """Start workers, and routers that are not the only one, once more if they have ended; returns their names.

        Raises ChildDiedError when the only router has ended, or another one for the RESTARTS_MAX-th time.
        """
        if len(self.routers) == 1:
            self.children[ROUTER].check_alive()
        routers = [router for router in self.routers if not self.children[router.name].is_alive()]
        for router in routers:
            self._bury(router.name)
            self._start_router(router)
        lost = [(worker, role) for worker, role in self._workers if not self.children[worker].is_alive()]
        for worker, role in lost:
            self._bury(worker)
            self.start_worker(worker, role)
        return [*(router.name for router in routers), *(worker for worker, _ in lost)]

    def restart(self, name: str, *, kv_port: int = 0) -> None:
        """End a process of the platform at once, if it has not ended, and start it anew, however often."""
        self.children[name].kill()
        self.children[name].stop(grace_s=0)
        places = {router.name: router for router in self.routers}
        if name in places:
            self._start_router(places[name])
        else:
            self.start_worker(name, dict(self._workers)[name], kv_port=kv_port)

    def _bury(self, name: str) -> None:
        """Raises ChildDiedError if it has died too often."""
        self._restarts[name] += 1
        if self._restarts[name] > RESTARTS_MAX:
            self.children[name].check_alive()
        self.children[name].stop(grace_s=0)

    def stop(self) -> None:
        """Stop every child, workers first, so that they can say goodbye; then remove what they leave."""
        children = list(reversed(self.children.values()))
        for child in children:
            child.ask_to_stop()
        for child in children:
            child.stop(grace_s=STOP_GRACE_S)
        memory.sweep_stale()  # a killed worker could not remove its own
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start_router(self, router: RouterPlace) -> None:
        config = RouterConfig(
            model_path=str(self.plan.model_path),
            model_name=self.plan.model_name,
            host=self.plan.host,
            http_port=router.http_port,
            grpc_port=router.grpc_port,
            placement=self.plan.placement,
            slo=self.plan.slo,
            telemetry=self._telemetry(router.name),
        )
        self._start(router.name, "router", config, {})

    def _start(self, name: str, command: str, config: RouterConfig | WorkerConfig, environment: dict[str, str]) -> None:
        path = self.folder / f"{name}.yaml"
        path.write_text(load.to_yaml(_plain(dataclasses.asdict(config))))
        child = Child(name, [command, "--config", str(path)], self.folder / f"{name}.log", environment)
        self.children[name] = child
        child.start()

    def workers(self, router: int = 0) -> list[pb.WorkerRow]:
        """The workers as a router knows them. Raises RpcError if it does not answer."""
        with grpc.insecure_channel(f"{self.plan.host}:{self.routers[router].grpc_port}") as channel:
            return list(rpc.AdminStub(channel).GetWorkers(pb.GetWorkersRequest(), timeout=2.0).workers)

    def _joined(self) -> list[str]:
        """Workers that are ready at every router."""
        ready = set(self.plan.members())
        for number in range(len(self.routers)):
            try:
                rows = self.workers(number)
                ready &= {row.info.worker for row in rows if row.load.lifecycle == "ready" and not row.load.unready}
            except grpc.RpcError:
                return []
        return sorted(ready)

    def _telemetry(self, name: str) -> TelemetryConfig:
        telemetry = self.plan.telemetry
        if telemetry.traces != "file":
            return telemetry
        path = Path(telemetry.traces_to)
        return dataclasses.replace(telemetry, traces_to=str(path.with_name(f"{path.stem}-{name}{path.suffix}")))


def _plain(values: dict[str, object]) -> dict[str, object]:
    """Tuples as lists, so that YAML stays plain."""
    return {
        key: _plain(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
    }


def _place(plan: FleetPlan, number: int) -> RouterPlace:
    name = f"{ROUTER}-{number}" if number else ROUTER
    http_port = plan.http_port + 2 * number if plan.http_port else free_port(plan.host)
    grpc_port = plan.grpc_port + 2 * number if plan.grpc_port else free_port(plan.host)
    return RouterPlace(name, http_port, grpc_port)


def free_port(host: str) -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def check_port_free(host: str, port: int, *, option: str) -> None:
    """Raise ConfigError naming `option` if the port is taken, or none at all."""
    if not 0 <= port <= PORT_MAX:
        raise ConfigError(f"{option}: is {port}; use 1 to {PORT_MAX}, or 0 for any free one")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} on {host} cannot be used ({error.strerror}); choose another with {option}"
            ) from error
