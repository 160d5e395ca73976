"""A real Kubernetes on this machine: control plane, nodes, names and images; up in seconds, gone without a trace.

`up()` after an interrupted run first removes what that run left. Needs root, network namespaces
and cgroup version 1. What it serves is not its business. Next: `control_plane.py`, `node.py`.
"""

import datetime as dt
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from kube import control_groups, debian, image_store, network, pki
from kube.api import Api, Document
from kube.build import Binaries, build
from kube.commands import UnfitError
from kube.control_plane import SERVER, ControlPlane
from kube.dns import ClusterDns
from kube.image_store import Images
from kube.node import Node
from kube.places import Places
from kube.processes import Processes, wait_until

NODES = 2
NODES_MAX = 8
READY_S_MAX = 180.0
KEPT_UP = "kept-up"  # a file that says: this cluster belongs to somebody who will take it down


class Cluster:
    """One cluster. `up` once, `down` once; parts may be broken and mended between."""

    def __init__(self, places: Places, *, binaries: Binaries, images: Images, nodes: int = NODES) -> None:
        self.images = images
        self.binaries = binaries
        self.kubeconfig = places.run / "pki" / "admin.kubeconfig"
        self._places = places
        self._running = Processes(places.run / "processes", places.logs)
        self._control = network.control_place()
        self.control_plane = ControlPlane(
            place=self._control,
            folder=places.run,
            pki=places.run / "pki",
            binaries=binaries,
            processes=self._running,
        )
        self.nodes = [_node(places, self._running, binaries, number) for number in range(1, nodes + 1)]
        self._dns: ClusterDns | None = None

    @property
    def kubectl(self) -> Path:
        return self.binaries.path("kubectl")

    def up(self) -> Api:
        """Start everything; every node is ready when this returns. Raises TimeoutError, CommandError."""
        remove_leftovers(self._places)
        shutil.rmtree(self._places.logs, ignore_errors=True)
        network.raise_network([self._control, *(node.place for node in self.nodes)])
        pki.make_pki(
            self._places.run / "pki",
            server=SERVER,
            api_addresses=("127.0.0.1", network.CONTROL, network.API_SERVICE),
            nodes=[(node.name, node.place.address) for node in self.nodes],
            now=dt.datetime.now(dt.UTC),
        )
        (self._places.run / "images").write_text(f"{self.images.control} {self.images.worker}", encoding="ascii")
        self.control_plane.start()
        for node in self.nodes:
            node.start()
        api = Api(self.kubeconfig)
        self._dns = ClusterDns(place=self._control, folder=self._places.run, processes=self._running, api=api)
        self._dns.start()
        wait_until(lambda: self._is_ready(api), deadline_s=READY_S_MAX, what="nodes ready")
        return api

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def down(self) -> None:
        """Stop everything and remove every trace but logs and cache."""
        if self._dns is not None:
            self._dns.stop()
        _remove(self._places, self._running, self.nodes)

    def _is_ready(self, api: Api) -> bool:
        ready = [node for node in api.items("/api/v1/nodes") if is_node_ready(node)]
        return len(ready) == len(self.nodes) and api.exists("/api/v1/namespaces/default/serviceaccounts/default")


def prepare(places: Places, *, nodes: int = NODES) -> Cluster:
    """A cluster that can go up: everything installed, built and packed. Minutes on a fresh machine, then seconds.

    Raises CommandError, or UnfitError naming what this machine lacks.
    """
    problem = "needs root" if os.geteuid() != 0 else control_groups.problem() or network.problem()
    if problem is not None:
        raise UnfitError(f"a cluster cannot run on this machine: {problem}; set KUBECONFIG to use one that is there")
    debian.install_missing()
    return Cluster(places, binaries=build(places), images=image_store.prepare(places), nodes=nodes)


def running(places: Places, *, nodes: int = NODES) -> Cluster | None:
    """The cluster that `python -m kube up` keeps up in another terminal, with the images it was started with."""
    named = places.run / "images"
    if not (places.run / KEPT_UP).exists():
        return None
    control, worker = named.read_text(encoding="ascii").split()
    images = Images(store=places.image_store / "content", control=control, worker=worker)
    return Cluster(places, binaries=build(places), images=images, nodes=nodes)


def remove_leftovers(places: Places) -> None:
    """Remove what an interrupted run left: processes, control groups, namespaces, files."""
    running = Processes(places.run / "processes", places.logs)
    nodes = [_node(places, running, Binaries(places.run), number) for number in range(1, NODES_MAX + 1)]
    _remove(places, running, nodes)


def is_node_ready(node: Document) -> bool:
    """Whether the API server holds the node for ready."""
    conditions = node["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _node(places: Places, running: Processes, binaries: Binaries, number: int) -> Node:
    place = network.node_place(number)
    folder = places.run / place.name
    store = places.image_store / "content"
    return Node(place=place, folder=folder, pki=places.run / "pki", binaries=binaries, store=store, running=running)


def _remove(places: Places, running: Processes, nodes: Sequence[Node]) -> None:
    for node in nodes:
        node.stop()
    running.stop_all()
    network.lower_network([network.control_place(), *(node.place for node in nodes)])
    shutil.rmtree(places.run, ignore_errors=True)
