"""A platform whose processes each have a network of their own, joined by cables that a test can cut.

    this process --.
    router --------|
    prefill -------|--[ switch: a bridge in a namespace ]
    decode-0 ------|
    decode-1 ------'

Every host is a Linux network namespace with one interface. A pair is cut by giving one side a wrong
hardware address for the other: what it sends is lost on the way, without an error, as in a broken
network. Needs root; `why_not` says why there can be none. Nothing outlives `close`.
"""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import grpc
from real_processes import wait_until

from sluice.config import load
from sluice.config.router import RouterConfig
from sluice.config.worker import EngineConfig, TransferConfig, WorkerConfig
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

NOWHERE = "02:00:00:00:00:fe"
HTTP_PORT, GRPC_PORT = 8000, 8001
US = "us"
Role = Literal["prefill", "decode", "mixed"]


def why_not() -> str:
    """Why this process cannot make networks; empty when it can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    name = f"sluice-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    bridged = run_ip("-n", name, "link", "add", "name", "br0", "type", "bridge", check=False)
    run_ip("netns", "del", name)
    return "" if bridged.returncode == 0 else f"no bridges here: {bridged.stderr.strip()}"


def run_ip(*words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


class Network:
    """One switch and a host for each name, this process among them. close() it."""

    def __init__(self, names: Sequence[str]) -> None:
        number = os.getpid() % 200 + 20
        self._tag = f"slc{os.getpid() % 100_000}"
        self._switch = f"{self._tag}-switch"
        self.addresses = {name: f"10.{number}.77.{place}" for place, name in enumerate([US, *names], 1)}
        self._cuts: set[tuple[str, str]] = set()
        try:
            run_ip("netns", "add", self._switch)
            run_ip("-n", self._switch, "link", "add", "name", "br0", "type", "bridge")
            run_ip("-n", self._switch, "link", "set", "br0", "up")
            for place, name in enumerate(self.addresses):
                self._plug_in(name, cable=f"{self._tag}p{place}")
        except BaseException:
            self.close()
            raise

    def _plug_in(self, name: str, *, cable: str) -> None:
        peer = ("peer", "name", f"{self._tag}u" if name == US else "eth0")
        if name != US:
            run_ip("netns", "add", self.namespace_of(name))
            peer = (*peer, "netns", self.namespace_of(name))
        run_ip("link", "add", "name", cable, "type", "veth", *peer)
        run_ip("link", "set", cable, "netns", self._switch)
        run_ip("-n", self._switch, "link", "set", cable, "master", "br0", "up")
        inside, device = self._inside(name)
        run_ip(*inside, "address", "add", f"{self.addresses[name]}/24", "dev", device)
        run_ip(*inside, "link", "set", device, "up")
        if name != US:
            run_ip(*inside, "link", "set", "lo", "up")

    def namespace_of(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _inside(self, name: str) -> tuple[tuple[str, ...], str]:
        return ((), f"{self._tag}u") if name == US else (("-n", self.namespace_of(name)), "eth0")

    def cut_one_way(self, sender: str, receiver: str) -> None:
        """What `sender` sends to `receiver` is lost from now on."""
        inside, device = self._inside(sender)
        run_ip(*inside, "neigh", "replace", self.addresses[receiver], "lladdr", NOWHERE, "dev", device)
        self._cuts.add((sender, receiver))

    def cut(self, one: str, other: str) -> None:
        """Nothing passes between the two from now on."""
        self.cut_one_way(one, other)
        self.cut_one_way(other, one)

    def heal(self) -> None:
        """Everybody hears everybody again."""
        for sender, receiver in self._cuts:
            inside, device = self._inside(sender)
            run_ip(*inside, "neigh", "del", self.addresses[receiver], "dev", device)
        self._cuts.clear()

    def close(self) -> None:
        """Remove every namespace and cable; processes inside must have ended."""
        run_ip("link", "del", f"{self._tag}u", check=False)
        for name in [self._switch, *(self.namespace_of(name) for name in self.addresses if name != US)]:
            run_ip("netns", "del", name, check=False)


class SeparateHosts:
    """A router and workers on hosts of their own; use as a context manager."""

    def __init__(self, model_path: Path, folder: Path, workers: Sequence[tuple[str, Role]]) -> None:
        self._model_path = model_path
        self._folder = folder
        self._workers = workers
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.network = Network(["router", *(name for name, _ in workers)])
        router = self.network.addresses["router"]
        self.url = f"http://{router}:{HTTP_PORT}/v1"
        self.grpc_address = f"{router}:{GRPC_PORT}"

    def __enter__(self) -> Self:
        addresses = self.network.addresses
        common = {"model_path": str(self._model_path), "model_name": "tiny"}
        try:
            router = RouterConfig(
                **common,
                host=addresses["router"],
                http_port=HTTP_PORT,
                grpc_port=GRPC_PORT,
                heartbeat_s=0.5,
                worker_expiry_s=2.5,
            )
            self._start("router", router)
            for name, role in self._workers:
                worker = WorkerConfig(
                    **common,
                    worker=name,
                    role=role,
                    routers=(self.grpc_address,),
                    host=addresses[name],
                    engine=EngineConfig(threads=1, kv_memory_mib=8, step_tokens_max=128),
                    transfer=TransferConfig(transports=("tcp",), checksums="always", lease_s=6.0),
                )
                self._start(name, worker)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, name: str, config: RouterConfig | WorkerConfig) -> None:
        path = self._folder / f"{name}.yaml"
        path.write_text(load.to_yaml(plain(dataclasses.asdict(config))))
        command = "router" if isinstance(config, RouterConfig) else "worker"
        inside = ["ip", "netns", "exec", self.network.namespace_of(name)]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [*inside, sys.executable, "-m", "sluice.cli.leash", str(os.getpid()), command, "--config", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
            )

    def wait_ready(self, *, limit_s: float = 180.0) -> None:
        """Return when every worker is ready at the router."""
        wait_until(lambda: self._ready() == {name for name, _ in self._workers}, "all workers", limit_s=limit_s)

    def _ready(self) -> set[str]:
        for name, child in self._children.items():
            assert child.poll() is None, f"{name} has ended: {self.log_of(name)[-2000:]}"
        try:
            rows = self.workers()
            return {row.info.worker for row in rows if row.load.lifecycle == "ready" and not row.load.unready}
        except grpc.RpcError:
            return set()

    def workers(self) -> Sequence[pb.WorkerRow]:
        with grpc.insecure_channel(self.grpc_address) as channel:
            return rpc.AdminStub(channel).GetWorkers(pb.GetWorkersRequest(), timeout=5).workers

    def requests(self) -> Sequence[pb.RequestRow]:
        with grpc.insecure_channel(self.grpc_address) as channel:
            return rpc.AdminStub(channel).GetRequests(pb.GetRequestsRequest(limit=1000), timeout=5).requests

    def log_of(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        for child in self._children.values():
            child.kill()
        for child in self._children.values():
            child.wait()
        self.network.close()


def plain(values: dict[str, object]) -> dict[str, object]:
    """Tuples as lists, so that YAML stays plain."""
    return {
        key: plain(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
    }
