"""One bridge, one network namespace for the control plane and one per node, and the routes between them.

Everything the cluster does to a network happens in these namespaces; the machine itself gets a
bridge and three routes, which go when the cluster goes. Needs root.
"""

from dataclasses import dataclass
from pathlib import Path

from kube.commands import CommandError, run

BRIDGE = "sluice-e2e"
MACHINE = "10.77.0.1"
CONTROL = "10.77.0.2"
SERVICES = "10.96.0.0/16"
PODS = "10.244.0.0/16"
DNS_SERVICE = "10.96.0.10"
API_SERVICE = "10.96.0.1"
NAMESPACES = Path("/run/netns")


@dataclass(frozen=True, slots=True)
class Place:
    """One namespace on the bridge. `pods` is the range of the pods behind it, if any are."""

    name: str
    address: str
    pods: str | None = None

    @property
    def namespace(self) -> Path:
        return NAMESPACES / f"sluice-e2e-{self.name}"

    @property
    def link(self) -> str:
        return f"sle2e-{self.name}"

    def enter(self) -> list[str | Path]:
        """Put before a command, runs it there."""
        return ["nsenter", f"--net={self.namespace}"]


def control_place() -> Place:
    return Place("control", CONTROL)


def node_place(number: int) -> Place:
    """The place of node 1, 2, …"""
    return Place(f"n{number}", f"10.77.0.{10 + number}", f"10.244.{number}.0/24")


def problem() -> str | None:
    """Why a cluster's network cannot be made on this machine, or None."""
    try:
        run(["unshare", "--net", "--mount", "--propagation", "private", "true"])
    except CommandError:
        return "needs leave to make network and mount namespaces"
    return None


def raise_network(places: list[Place]) -> None:
    """Make the bridge, the namespaces and the routes. Raises CommandError if they are there already."""
    run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "addr", "add", f"{MACHINE}/24", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    for place in places:
        name = place.namespace.name
        run(["ip", "netns", "add", name])
        run(["ip", "link", "add", place.link, "type", "veth", "peer", "name", "eth0", "netns", name])
        run(["ip", "link", "set", place.link, "master", BRIDGE, "up"])
        inside = place.enter()
        run([*inside, "ip", "link", "set", "lo", "up"])
        run([*inside, "ip", "addr", "add", f"{place.address}/24", "dev", "eth0"])
        run([*inside, "ip", "link", "set", "eth0", "up"])
        run([*inside, "ip", "route", "add", "default", "via", MACHINE])
        run([*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1"])
    nodes = [place for place in places if place.pods is not None]
    for target in nodes:
        run(["ip", "route", "add", str(target.pods), "via", target.address])
        for place in places:
            if place is not target:
                run([*place.enter(), "ip", "route", "add", str(target.pods), "via", target.address])
    # Clients on this machine reach services through the control plane's place: nodes get drained and killed.
    run(["ip", "route", "add", SERVICES, "via", CONTROL])


def is_raised() -> bool:
    """Whether a cluster's bridge is there: of a running cluster, or left by an interrupted one."""
    return Path("/sys/class/net", BRIDGE).exists()


def processes_in(place: Place) -> list[int]:
    """Every process in a place's namespace."""
    if not place.namespace.exists():
        return []
    return [int(pid) for pid in run(["ip", "netns", "pids", place.namespace.name]).split()]


def lower_network(places: list[Place]) -> None:
    """Remove all of it; what is gone already is no error."""
    for place in places:
        if place.namespace.exists():
            run(["ip", "netns", "del", place.namespace.name])
    for link in (*(place.link for place in places), BRIDGE):
        if Path("/sys/class/net", link).exists():
            _remove(link)


def _remove(link: str) -> None:
    try:
        run(["ip", "link", "del", link])
    except CommandError:
        if Path("/sys/class/net", link).exists():  # a veth may go with its peer between look and removal
            raise
