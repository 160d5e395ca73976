"""A newer API server for custom resources alone: Debian's unstable packages of its source, built here once.

Debian has no newer whole Kubernetes as source, but the library that serves custom resources, with everything it
needs; its own `main` is a server of definitions and their objects, validation rules in CEL included, and of
nothing else. Runs on loopback, etcd beside it. About 7 minutes of one core and 4 GB to build. Needs root, for apt.
Next: `tests/definitions/test_newer_server.py`.
"""

import json
import os
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from kube import debian
from kube.api import ApiError, Document
from kube.commands import run
from kube.places import Places
from kube.processes import Processes, wait_until

SUITE = "sid"
SERVER = "golang-k8s-apiextensions-apiserver-dev"
COMPILER = "golang-1.26-go"
STORE = "etcd-server"
BUILD_S_MAX = 3000.0
READY_S_MAX = 60.0
NOT_THERE = "NamespaceLifecycle,MutatingAdmissionWebhook,ValidatingAdmissionWebhook,ValidatingAdmissionPolicy,"
NOT_THERE += "MutatingAdmissionPolicy"  # what asks for objects that only a whole API server has
ANYBODY = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "users": [{"name": "none", "user": {}}],
    "current-context": "none",
}


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
        self._port = 0

    def start(self) -> None:
        """Returns when definitions can be listed. Raises TimeoutError, RuntimeError with a process's last words."""
        store, peers, self._port = (_free_port() for _ in range(3))
        nobody = self._folder / "nobody.kubeconfig"
        nobody.write_text(json.dumps(ANYBODY), encoding="ascii")
        etcd = {
            "data-dir": self._folder / "etcd",
            "listen-client-urls": f"http://127.0.0.1:{store}",
            "advertise-client-urls": f"http://127.0.0.1:{store}",
            "listen-peer-urls": f"http://127.0.0.1:{peers}",
            "unsafe-no-fsync": "true",
        }
        server = {
            "etcd-servers": f"http://127.0.0.1:{store}",
            "secure-port": self._port,
            "bind-address": "127.0.0.1",
            "cert-dir": self._folder / "certificates",
            "authentication-skip-lookup": "true",
            "authorization-always-allow-paths": "*",
            "enable-priority-and-fairness": "false",
            "disable-admission-plugins": NOT_THERE,
            "kubeconfig": nobody,
            "authentication-kubeconfig": nobody,
            "authorization-kubeconfig": nobody,
        }
        self._start("etcd", etcd)
        self._start("apiextensions-apiserver", server)
        wait_until(self._is_ready, deadline_s=READY_S_MAX, what="the newer API server")

    def stop(self) -> None:
        self._processes.stop_all()

    def call(self, method: str, path: str, body: Document | None = None) -> Document:
        """One request; the answer's JSON. Raises ApiError."""
        request = urllib.request.Request(f"https://127.0.0.1:{self._port}{path}", method=method)
        request.add_header("Content-Type", "application/json")
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data, timeout=20, context=_unchecked()) as reply:
                return dict(json.load(reply))
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, json.load(error)["message"]) from error

    def _is_ready(self) -> bool:
        self._processes.assert_running("apiextensions-apiserver")
        try:
            self.call("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
        except (urllib.error.URLError, OSError, ApiError, ValueError):
            return False
        return True

    def _start(self, name: str, flags: dict[str, Any]) -> None:
        self._processes.start(name, [self._programs / name, *(f"--{key}={value}" for key, value in flags.items())])


def _unchecked() -> ssl.SSLContext:
    """The server has just made its own certificate, for loopback."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
