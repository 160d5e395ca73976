"""A newer API server for custom resources alone: Debian's unstable packages of its source, built here once.

Debian has no newer whole Kubernetes as source, but the library that serves custom resources, with everything it
needs; its own `main` is a server of definitions and their objects, validation rules in CEL included, and of
nothing else. Runs on loopback, etcd beside it. About 7 minutes of one core and 4 GB to build. Needs root, for apt.
Next: `tests/definitions/test_newer_server.py`.
"""

import datetime as dt
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from kube import debian
from kube.api import Api, ApiError
from kube.commands import run
from kube.pki import Authority, Identity
from kube.places import Places
from kube.processes import Processes, wait_until

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SUITE = "sid"
SERVER = "golang-k8s-apiextensions-apiserver-dev"
COMPILER = "golang-1.26-go"
STORE = "etcd-server"
BUILD_S_MAX = 3000.0
READY_S_MAX = 60.0
NOT_THERE = (
    "NamespaceLifecycle",
    "MutatingAdmissionWebhook",
    "ValidatingAdmissionWebhook",
    "ValidatingAdmissionPolicy",
    "MutatingAdmissionPolicy",
)
"""Admission that asks for objects which only a whole API server has."""
ADMIN = Identity("admin", groups=("system:masters",))  # may do everything, and nobody is asked


def build(places: Places) -> Path:
    """The folder with `apiextensions-apiserver` and `etcd`, from the cache or built now. Raises UnfitError."""
    folder = places.root / "newer-server"
    if (folder / "done").exists():
        return folder
    work = places.root / "newer-build"
    for one in (folder, work):
        shutil.rmtree(one, ignore_errors=True)
    folder.mkdir(parents=True)
    debian.unpack_closure([SERVER, COMPILER, STORE], work, suite=SUITE)
    go = work / "root" / "usr" / "lib" / "go-1.26"
    code = work / "root" / "usr" / "share" / "gocode"
    environment = {
        **os.environ,
        "HOME": str(work),
        "GOROOT": str(go),
        "GOPATH": str(code),
        "GOCACHE": str(work / "gocache"),
        "GO111MODULE": "off",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
        "GOFLAGS": "",
    }
    command = [go / "bin" / "go", "build", "-trimpath", "-o", folder / "apiextensions-apiserver", "."]
    source = code / "src" / "k8s.io" / "apiextensions-apiserver"
    run(command, deadline_s=BUILD_S_MAX, folder=source, environment=environment)
    shutil.copy2(work / "root" / "usr" / "bin" / "etcd", folder / "etcd")
    shutil.rmtree(work)
    (folder / "done").touch()
    return folder


class NewerServer:
    """One server and its store, on free ports. `start` once, `stop` once."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._processes = Processes(folder / "processes", folder / "logs")

    def start(self) -> Api:
        """Returns when definitions can be listed. Raises TimeoutError, RuntimeError with a process's last words."""
        store, peers, port = (_free_port() for _ in range(3))
        folder = self._folder
        authority = Authority(folder / "pki", now=dt.datetime.now(dt.UTC))
        authority.certify("server", Identity("server", addresses=("127.0.0.1",)))
        admin = authority.kubeconfig("admin", ADMIN, server=f"https://127.0.0.1:{port}")
        etcd = {
            "data-dir": folder / "etcd",
            "listen-client-urls": f"http://127.0.0.1:{store}",
            "advertise-client-urls": f"http://127.0.0.1:{store}",
            "listen-peer-urls": f"http://127.0.0.1:{peers}",
            "unsafe-no-fsync": "true",
        }
        server = {
            "etcd-servers": f"http://127.0.0.1:{store}",
            "secure-port": port,
            "bind-address": "127.0.0.1",
            "tls-cert-file": folder / "pki" / "server.crt",
            "tls-private-key-file": folder / "pki" / "server.key",
            "client-ca-file": folder / "pki" / "ca.crt",
            "authentication-skip-lookup": "true",
            "enable-priority-and-fairness": "false",
            "disable-admission-plugins": ",".join(NOT_THERE),
            # There is no other server that it could ask: it is told to ask itself, and never has to.
            **dict.fromkeys(("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"), admin),
        }
        self._start("etcd", etcd)
        self._start("apiextensions-apiserver", server)
        api = Api(admin)
        wait_until(lambda: self._is_ready(api), deadline_s=READY_S_MAX, what="the newer API server")
        return api

    def stop(self) -> None:
        self._processes.stop_all()

    def _is_ready(self, api: Api) -> bool:
        self._processes.assert_running("apiextensions-apiserver")
        try:
            api.items(DEFINITIONS)
        except ApiError:
            return False
        return True

    def _start(self, name: str, flags: Mapping[str, object]) -> None:
        self._processes.start(name, [self._programs / name, *(f"--{key}={value}" for key, value in flags.items())])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
