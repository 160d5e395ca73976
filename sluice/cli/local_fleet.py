"""A whole platform on this machine: one router and its workers as processes, the same programs as in a cluster.

Owns the children, their settings files and logs (in one temporary folder), and stops them all,
whatever happens. Next: `child.py`.
"""

import dataclasses
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

import grpc

from sluice.cli.child import Child
from sluice.config import load
from sluice.config.router import RouterConfig
from sluice.config.telemetry import TelemetryConfig
from sluice.config.worker import EngineConfig, TransferConfig, WorkerConfig
from sluice.errors import ConfigError, NoWorkerError
from sluice.kv_transfer import memory
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

Role = Literal["prefill", "decode", "mixed"]
START_S_MAX: Final = 300.0
STOP_GRACE_S: Final = 10.0
WORKER_GRACE_S: Final = 3.0  # nobody is left to move requests to when all stop at once
WORKERS_MAX: Final = 64
RESTARTS_MAX: Final = 3  # of one worker; more means that it cannot run here
ROUTER: Final = "router"
PORT_MAX: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """What to start. Ports of 0 mean any free one."""

    model_path: Path
    model_name: str = ""
    prefill: int = 1
    decode: int = 1
    mixed: int = 0
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    transfer: TransferConfig = dataclasses.field(default_factory=TransferConfig)
    telemetry: TelemetryConfig = dataclasses.field(default_factory=TelemetryConfig)

    def roles(self) -> list[tuple[str, Role]]:
        """Every worker's name and role."""
        counts: list[tuple[Role, int]] = [("prefill", self.prefill), ("decode", self.decode), ("mixed", self.mixed)]
        workers = [(f"{role}-{i}", role) for role, count in counts for i in range(count)]
        if not 0 < len(workers) <= WORKERS_MAX:
            raise ConfigError(
                f"{len(workers)} workers asked for; start 1 to {WORKERS_MAX} (--prefill, --decode, --mixed)"
            )
        return workers


class LocalFleet:
    """A running platform; use as a context manager."""

    def __init__(self, plan: FleetPlan) -> None:
        self.plan = plan
        self._workers = plan.roles()
        self._folder: Path | None = None
        self._restarts = dict.fromkeys((worker for worker, _ in self._workers), 0)
        self.http_port = plan.http_port or free_port(plan.host)
        self.grpc_port = plan.grpc_port or free_port(plan.host)
        self.children: dict[str, Child] = {}

    @property
    def folder(self) -> Path:
        """Settings and logs of the children; there from start to stop."""
        assert self._folder is not None, "the platform has not been started"
        return self._folder

    @property
    def url(self) -> str:
        """Where OpenAI clients connect."""
        return f"http://{self.plan.host}:{self.http_port}/v1"

    @property
    def grpc_address(self) -> str:
        """Where gRPC clients, `sluice get` and workers connect."""
        return f"{self.plan.host}:{self.grpc_port}"

    def __enter__(self) -> Self:
        check_port_free(self.plan.host, self.http_port, option="--port")
        check_port_free(self.plan.host, self.grpc_port, option="--grpc-port")
        if self.http_port == self.grpc_port:
            raise ConfigError(f"--grpc-port: is {self.grpc_port}, and so is --port; choose two")
        self._folder = Path(tempfile.mkdtemp(prefix="sluice-"))
        try:
            self._start_router()
            for worker, role in self._workers:
                self.start_worker(worker, role)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_worker(self, worker: str, role: Role) -> None:
        """Start one worker that will join the router."""
        threads = self.plan.engine.threads or max(1, (os.cpu_count() or 1) // len(self._workers))
        config = WorkerConfig(
            worker=worker,
            role=role,
            model_path=str(self.plan.model_path),
            model_name=self.plan.model_name,
            routers=(self.grpc_address,),
            host=self.plan.host,
            stop_grace_s=WORKER_GRACE_S,
            engine=dataclasses.replace(self.plan.engine, threads=threads),
            transfer=self.plan.transfer,
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
        while len(joined) < len(self._workers):
            for child in self.children.values():
                child.check_alive()
            if time.monotonic() > deadline_s:
                missing = sorted({name for name, _ in self._workers} - set(joined))
                raise NoWorkerError(f"not ready after {START_S_MAX:.0f} s: {', '.join(missing)}; see {self.folder}")
            now_joined = self._joined()
            if now_joined != joined:
                joined = now_joined
                on_progress(joined)
            time.sleep(0.1)

    def restart_lost(self) -> list[str]:
        """Start workers that have ended once more, under their names; returns those names.

        Raises ChildDiedError when the router has ended, or a worker for the RESTARTS_MAX-th time.
        """
        self.children[ROUTER].check_alive()
        lost = [(worker, role) for worker, role in self._workers if not self.children[worker].is_alive()]
        for worker, role in lost:
            self._restarts[worker] += 1
            if self._restarts[worker] > RESTARTS_MAX:
                self.children[worker].check_alive()
            self.children[worker].stop(grace_s=0)
            self.start_worker(worker, role)
        return [worker for worker, _ in lost]

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

    def _start_router(self) -> None:
        config = RouterConfig(
            model_path=str(self.plan.model_path),
            model_name=self.plan.model_name,
            host=self.plan.host,
            http_port=self.http_port,
            grpc_port=self.grpc_port,
            telemetry=self._telemetry(ROUTER),
        )
        self._start(ROUTER, "router", config, {})

    def _start(self, name: str, command: str, config: RouterConfig | WorkerConfig, environment: dict[str, str]) -> None:
        path = self.folder / f"{name}.yaml"
        path.write_text(load.to_yaml(_plain(dataclasses.asdict(config))))
        arguments = ["sluice.cli.main", command, "--config", str(path)]
        child = Child(name, arguments, self.folder / f"{name}.log", environment)
        self.children[name] = child
        child.start()

    def _joined(self) -> list[str]:
        try:
            with grpc.insecure_channel(self.grpc_address) as channel:
                reply = rpc.AdminStub(channel).GetWorkers(pb.GetWorkersRequest(), timeout=2.0)
        except grpc.RpcError:
            return []
        return sorted(row.info.worker for row in reply.workers if row.load.lifecycle == "ready")

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
