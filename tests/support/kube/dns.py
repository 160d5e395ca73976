"""Names of services in the test cluster: dnsmasq behind the service kube-dns, fed with what the API server lists.

Answers `SERVICE.NAMESPACE.svc.cluster.local`: the service's address, or every ready pod's address for a
headless one. While the API server is away the last answers stay. For tests: nothing but A records.
"""

import logging
import os
import signal
import threading
from pathlib import Path

from kube.api import Api, ApiError
from kube.network import DNS_SERVICE, Place
from kube.processes import Processes, wait_until

LOOK_EVERY_S = 0.3
START_S_MAX = 30.0
DOMAIN = "cluster.local"

log = logging.getLogger(__name__)

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "kube-dns", "namespace": "kube-system"},
    "spec": {"clusterIP": DNS_SERVICE, "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
}


class ClusterDns:
    """Runs dnsmasq in the control plane's namespace and keeps its names true."""

    def __init__(self, *, place: Place, folder: Path, processes: Processes, api: Api) -> None:
        self._place = place
        self._hosts = folder / "dns-hosts"
        self._processes = processes
        self._api = api
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="cluster dns", daemon=True)

    def start(self) -> None:
        """Start answering; pods find it at the address of the service kube-dns."""
        self._hosts.write_text("", encoding="ascii")
        flags = {
            "conf-file": "/dev/null",
            "pid-file": "",
            "user": "root",
            "listen-address": self._place.address,
            "addn-hosts": str(self._hosts),
            "local": f"/{DOMAIN}/",
            "local-ttl": "1",
        }
        options = [f"--{name}={value}" for name, value in flags.items()]
        options += ["--keep-in-foreground", "--bind-interfaces", "--no-resolv", "--no-hosts"]
        self._processes.start("dns", [*self._place.enter(), "dnsmasq", *options])
        wait_until(self._can_be_told, deadline_s=START_S_MAX, what="dnsmasq reads names again when it is told")
        self._api.apply(SERVICE)
        self._api.apply(self._endpoints())
        self._thread.start()

    def _can_be_told(self) -> bool:
        """Whether dnsmasq handles SIGHUP yet: before that it would end of it, and no pod find anything."""
        self._processes.assert_running("dns")
        status = Path(f"/proc/{self._processes.pid('dns')}/status").read_text(encoding="ascii")
        (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
        return bool(int(caught, 16) >> (signal.SIGHUP - 1) & 1)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _endpoints(self) -> dict[str, object]:
        ports = [{"name": "dns", "port": 53, "protocol": "UDP"}]
        subset = {"addresses": [{"ip": self._place.address}], "ports": ports}
        return {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "subsets": [subset],
        }

    def _follow(self) -> None:
        written = ""
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                text = hosts_text(self._api.items("/api/v1/services"), self._api.items("/api/v1/endpoints"))
            except (ApiError, OSError) as error:
                log.debug("names stay as they are: %s", error)
                continue
            if text != written:
                fresh = self._hosts.with_suffix(".new")
                fresh.write_text(text, encoding="ascii")
                fresh.replace(self._hosts)
                os.kill(self._processes.pid("dns"), signal.SIGHUP)
                written = text


def hosts_text(services: list[dict[str, object]], endpoints: list[dict[str, object]]) -> str:
    """The hosts file for what the API server lists."""
    addresses = {_key(one): _ready_addresses(one) for one in endpoints}
    lines = []
    for service in services:
        name, namespace = _key(service)
        cluster_ip = service["spec"].get("clusterIP")
        found = addresses.get((name, namespace), []) if cluster_ip == "None" else [cluster_ip]
        lines += [f"{address} {name}.{namespace}.svc.{DOMAIN}" for address in found if address]
    return "".join(f"{line}\n" for line in sorted(lines))


def _key(document: dict[str, object]) -> tuple[str, str]:
    return document["metadata"]["name"], document["metadata"]["namespace"]


def _ready_addresses(endpoints: dict[str, object]) -> list[str]:
    subsets = endpoints.get("subsets") or []
    return [address["ip"] for subset in subsets for address in subset.get("addresses", [])]
