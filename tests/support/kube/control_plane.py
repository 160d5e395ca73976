"""etcd, API server, controller manager, scheduler and one kube-proxy, all in the control plane's namespace.

That kube-proxy is for clients outside the cluster: it brings them to services while nodes come and
go. Nodes that fall silent are noticed in seconds here, not in minutes. Next: `node.py`.
"""

import ssl
import urllib.error
import urllib.request
from pathlib import Path

from kube import network
from kube.audit import Noted, read_log, write_policy
from kube.build import Binaries
from kube.network import Place
from kube.processes import Processes, wait_until

API_PORT = 6443
SERVER = f"https://{network.CONTROL}:{API_PORT}"
READY_S_MAX = 90.0
AUDIT_POLICY = "audit-policy.json"
AUDIT_LOG = "audit.log"
AWAY_TOLERATED_S = 10  # pods of a node that is gone are replaced after this


class ControlPlane:
    """Starts and stops the control plane's processes; each can be stopped and started alone."""

    def __init__(self, *, place: Place, folder: Path, pki: Path, binaries: Binaries, processes: Processes) -> None:
        self._place = place
        self._folder = folder
        self._pki = pki
        self._binaries = binaries
        self._processes = processes

    def start(self) -> None:
        """Start everything; the API server answers when this returns. Raises TimeoutError."""
        self._start("etcd", "etcd", *self._etcd())
        self.start_api_server()
        self._start("controller-manager", "kube-controller-manager", *self._controller_manager())
        self._start("scheduler", "kube-scheduler", *self._client_flags("scheduler"), "--leader-elect=false")
        self._start("proxy-outside", "kube-proxy", *proxy_flags(self._pki, "outside"))

    def start_api_server(self) -> None:
        """Start the API server and wait until it is ready. Raises TimeoutError."""
        write_policy(self._folder / AUDIT_POLICY)
        self._start("apiserver", "kube-apiserver", *self._api_server())
        trust = ssl.create_default_context(cafile=str(self._pki / "ca.crt"))
        trust.load_cert_chain(self._pki / "apiserver-kubelet.crt", self._pki / "apiserver-kubelet.key")
        wait_until(lambda: self._is_ready(trust), deadline_s=READY_S_MAX, what="API server ready")

    def calls_of(self, namespace: str) -> set[Noted]:
        """Every kind of call that pods of `namespace` have made since the API server was first started."""
        return read_log(self._folder / AUDIT_LOG, namespace=namespace)

    def stop_api_server(self) -> None:
        self._processes.stop("apiserver")

    def _start(self, name: str, program: str, *flags: str) -> None:
        path = self._binaries.path(program)
        self._processes.start(name, [*self._place.enter(), path if path.exists() else program, *flags])

    def _is_ready(self, trust: ssl.SSLContext) -> bool:
        self._processes.assert_running("apiserver")
        try:
            with urllib.request.urlopen(f"{SERVER}/readyz", timeout=2, context=trust) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _etcd(self) -> list[str]:
        # Not synced to disk: this cluster's memory ends with it.
        flags = {
            "data-dir": str(self._folder / "etcd"),
            "listen-client-urls": "http://127.0.0.1:2379",
            "advertise-client-urls": "http://127.0.0.1:2379",
            "listen-peer-urls": "http://127.0.0.1:2380",
            "unsafe-no-fsync": "true",
        }
        return _flags(flags)

    def _api_server(self) -> list[str]:
        pki = self._pki
        flags = {
            "etcd-servers": "http://127.0.0.1:2379",
            "advertise-address": self._place.address,
            "secure-port": str(API_PORT),
            "service-cluster-ip-range": network.SERVICES,
            "client-ca-file": f"{pki}/ca.crt",
            "tls-cert-file": f"{pki}/apiserver.crt",
            "tls-private-key-file": f"{pki}/apiserver.key",
            "kubelet-client-certificate": f"{pki}/apiserver-kubelet.crt",
            "kubelet-client-key": f"{pki}/apiserver-kubelet.key",
            "kubelet-preferred-address-types": "InternalIP",
            "service-account-key-file": f"{pki}/sa.pub",
            "service-account-signing-key-file": f"{pki}/sa.key",
            "service-account-issuer": "https://kubernetes.default.svc",
            "api-audiences": "https://kubernetes.default.svc",
            "authorization-mode": "Node,RBAC",
            "audit-policy-file": f"{self._folder}/{AUDIT_POLICY}",
            "audit-log-path": f"{self._folder}/{AUDIT_LOG}",
            "enable-admission-plugins": "NodeRestriction",
            "requestheader-client-ca-file": f"{pki}/ca.crt",
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-username-headers": "X-Remote-User",
            "proxy-client-cert-file": f"{pki}/front-proxy.crt",
            "proxy-client-key-file": f"{pki}/front-proxy.key",
            "default-not-ready-toleration-seconds": str(AWAY_TOLERATED_S),
            "default-unreachable-toleration-seconds": str(AWAY_TOLERATED_S),
        }
        return _flags(flags)

    def _controller_manager(self) -> list[str]:
        flags = {
            "service-account-private-key-file": f"{self._pki}/sa.key",
            "root-ca-file": f"{self._pki}/ca.crt",
            "use-service-account-credentials": "true",
            "controllers": "*,-nodeipam",
            "allocate-node-cidrs": "false",
            "leader-elect": "false",
            "horizontal-pod-autoscaler-sync-period": "2s",
            "node-monitor-period": "2s",
            "node-monitor-grace-period": "16s",
        }
        return [*self._client_flags("controller-manager"), *_flags(flags)]

    def _client_flags(self, user: str) -> list[str]:
        path = f"{self._pki}/{user}.kubeconfig"
        return _flags({"kubeconfig": path, "authentication-kubeconfig": path, "authorization-kubeconfig": path})


def proxy_flags(pki: Path, host: str) -> list[str]:
    """kube-proxy's flags on `host`; limits that belong to the whole machine stay as they are."""
    flags = {
        "kubeconfig": f"{pki}/proxy.kubeconfig",
        "hostname-override": host,
        "cluster-cidr": network.PODS,
        "proxy-mode": "iptables",
        "oom-score-adj": "0",
        "conntrack-max-per-core": "0",
        "conntrack-tcp-timeout-established": "0",
        "conntrack-tcp-timeout-close-wait": "0",
    }
    return _flags(flags)


def _flags(values: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]
