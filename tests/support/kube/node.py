"""One node: containerd, kubelet and kube-proxy in a network namespace and a mount namespace of their own.

Two kubelets on one machine would delete each other's log folders, and containerd leaves files in
/run; so each node has its own /var/log, /run and /var/lib/cni, which vanish with it. Next:
`cluster.py`.
"""

import json
import shutil
import signal
from pathlib import Path

from kube import control_groups, network, processes
from kube.build import Binaries
from kube.container_daemon import wait_daemon, write_settings
from kube.control_plane import proxy_flags
from kube.debian import CNI_PLUGINS
from kube.network import Place
from kube.processes import Processes

PODS_MAX = 60
PRIVATE = ("mount --bind varlog /var/log", "mount -t tmpfs tmpfs /run", "mount -t tmpfs tmpfs /var/lib/cni")
NO_CLOUD = ("env", "AWS_EC2_METADATA_DISABLED=true")  # or every kubelet looks for a cloud first


class Node:
    """Starts, breaks and stops one node."""

    def __init__(
        self, *, place: Place, folder: Path, pki: Path, binaries: Binaries, store: Path, running: Processes
    ) -> None:
        """`store` is a container daemon's folder with the images that the node starts with."""
        self.name = place.name
        self.place = place
        self._folder = folder
        self._pki = pki
        self._binaries = binaries
        self._store = store
        self._running = running

    @property
    def socket(self) -> Path:
        """Where this node's containerd answers."""
        return self._folder / "containerd.sock"

    @property
    def _images(self) -> Path:
        return self._folder / "images"

    def start(self) -> None:
        """Start the node's processes; it joins by itself and is ready some seconds later."""
        control_groups.make_groups(self.name)
        self._write_files()
        logs = self._folder / "varlog"
        (logs / "pods").mkdir(parents=True)
        (logs / "containers").mkdir()
        Path("/var/lib/cni").mkdir(parents=True, exist_ok=True)
        lent = [f"mount --bind {source} {target}" for source, target in lend_images(self._store, self._images)]
        script = " && ".join((*PRIVATE, *lent, "echo private > private", "exec sleep infinity"))
        unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"cd {self._folder} && {script}"]
        self._running.start(f"{self.name}-spaces", [*self.place.enter(), *unshare])
        private = self._folder / "private"
        processes.wait_until(private.exists, deadline_s=10, what=f"{self.name}: private mounts", every_s=0.02)
        self._start("containerd", "containerd", "--config", str(self._folder / "containerd.toml"))
        wait_daemon(self.socket)
        self.start_kubelet()
        self._start("proxy", str(self._binaries.path("kube-proxy")), *proxy_flags(self._pki, self.name))

    def start_kubelet(self) -> None:
        flags = {
            "config": f"{self._folder}/kubelet.yaml",
            "kubeconfig": f"{self._pki}/kubelet-{self.name}.kubeconfig",
            "hostname-override": self.name,
            "node-ip": self.place.address,
            "root-dir": f"{self._folder}/kubelet",
            "cert-dir": f"{self._folder}/certificates",
            "container-runtime": "remote",
            "container-runtime-endpoint": f"unix://{self.socket}",
            "v": "2",
        }
        program = str(self._binaries.path("kubelet"))
        self._start("kubelet", program, *[f"--{name}={value}" for name, value in flags.items()])

    def stop_kubelet(self) -> None:
        """The node falls silent: its pods run on and nobody hears of them."""
        self._running.stop(f"{self.name}-kubelet", number=signal.SIGKILL)

    def kill_pod(self, uid: str) -> None:
        """kill -9 every process of one pod's containers but the one that holds its network."""
        pids = control_groups.processes_of_pod(self.name, uid)
        assert pids, f"pod {uid} has no process on {self.name}"
        processes.kill_all(pids)

    def stop(self) -> None:
        """Stop the node and everything that ran on it; its namespaces' mounts go with it."""
        for part in ("kubelet", "proxy", "containerd"):
            self._running.stop(f"{self.name}-{part}", number=signal.SIGKILL)
        self.kill_leftovers()
        self._running.stop(f"{self.name}-spaces", number=signal.SIGKILL)
        control_groups.remove_groups(self.name)

    def kill_leftovers(self) -> None:
        """Kill what still runs in the node's control groups or network namespace."""

        spaces = f"{self.name}-spaces"
        kept = {self._running.pid(spaces)} if self._running.has(spaces) else set()

        def is_empty() -> bool:
            left = {*control_groups.processes_of(self.name), *network.processes_in(self.place)} - kept
            processes.kill_all(sorted(left))
            return not left

        processes.wait_until(is_empty, deadline_s=20, what=f"{self.name}: no process left")

    def _start(self, part: str, program: str, *flags: str) -> None:
        holder = self._running.pid(f"{self.name}-spaces")
        enter = ["nsenter", "--target", str(holder), "--net", "--mount", *NO_CLOUD]
        self._running.start(f"{self.name}-{part}", [*enter, program, *flags])

    def _write_files(self) -> None:
        networks = self._folder / "networks"
        networks.mkdir(parents=True)
        (networks / "10-pods.conflist").write_text(json.dumps(self._pod_network()), encoding="utf-8")
        (self._folder / "resolv.conf").write_text(f"nameserver {network.DNS_SERVICE}\n", encoding="ascii")
        (self._folder / "kubelet.yaml").write_text(json.dumps(self._kubelet_settings(), indent=1), encoding="utf-8")
        write_settings(
            self._folder / "containerd.toml",
            root=self._images,
            state=self._folder / "containers",
            socket=self.socket,
            networks=networks,
            plugins=CNI_PLUGINS,
        )

    def _pod_network(self) -> dict[str, object]:
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": self.place.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": f"{self._folder}/addresses",
        }
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "0.3.1", "name": "pods", "plugins": [bridge, ports]}

    def _kubelet_settings(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{self._pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{self._pki}/kubelet-server-{self.name}.crt",
            "tlsPrivateKeyFile": f"{self._pki}/kubelet-server-{self.name}.key",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{control_groups.group_name(self.name)}",
            "failSwapOn": False,
            "clusterDNS": [network.DNS_SERVICE],
            "clusterDomain": "cluster.local",
            "resolvConf": f"{self._folder}/resolv.conf",
            "nodeStatusUpdateFrequency": "2s",
            "syncFrequency": "5s",
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi"},
            "volumePluginDir": f"{self._folder}/plugins",
            "serializeImagePulls": False,
            "maxPods": PODS_MAX,
            "oomScoreAdj": 0,
        }


def lend_images(store: Path, folder: Path) -> list[tuple[Path, Path]]:
    """Make `folder` a container daemon's folder with the images of `store`; returns what to mount there, from where.

    Packed layers are hard links and unpacked ones are mounted, since nobody writes to them; databases are copies.
    """
    unpacked: list[tuple[Path, Path]] = []

    def is_unpacked(parent: str, names: list[str]) -> list[str]:
        if Path(parent).parent.name != "snapshots":
            return []
        layer = Path(parent).relative_to(store)
        unpacked.append((store / layer / "fs", folder / layer / "fs"))
        return [name for name in names if name == "fs"]

    def link_or_copy(source: str, target: str) -> str:
        if source.endswith(".db"):
            return shutil.copy2(source, target)
        Path(target).hardlink_to(source)
        return target

    shutil.copytree(store, folder, symlinks=True, copy_function=link_or_copy, ignore=is_unpacked)
    for _, target in unpacked:
        target.mkdir()
    return unpacked
