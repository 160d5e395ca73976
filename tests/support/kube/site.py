"""Where the end-to-end tests run: this machine's own cluster, or any that KUBECONFIG names; and what they ask of it.

The chart is installed with Helm as a user would. Only an own cluster can be broken from outside
(kubelets, API server). Next: `tests/e2e/conftest.py`.
"""

import asyncio
import os
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python as helm
from kube import cluster
from kube.api import Api, ApiError, Document
from kube.audit import Noted
from kube.cluster import Cluster, is_node_ready
from kube.commands import UnfitError, run
from kube.places import Places, cache_root
from kube.processes import wait_until

CHART = Path(__file__).parents[3] / "charts" / "sluice"
RELEASE = "sluice"
SYSTEM = "sluice-system"
WAIT_S = 300.0  # a laptop that does other things, too
HELM_WAIT_S = 300
GPUS_PER_NODE = 4  # room for all workers of the disturbed service, so that a node can be drained
SERVICES = "/apis/sluice.dev/v1alpha1"
GPU = "example.com/gpu"  # an extended resource: counted by the scheduler, made of nothing
FORBIDDEN = 403
OWNED = (
    "/api/v1/pods",
    "/api/v1/services",
    "/api/v1/configmaps",
    "/api/v1/serviceaccounts",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/replicasets",
    "/apis/networking.k8s.io/v1/networkpolicies",
    f"{SERVICES}/workerpools",
)


@dataclass
class Site:
    """A cluster to test on."""

    api: Api
    kubectl: Path
    control_image: str
    worker_image: str
    own: Cluster | None  # None: somebody else's cluster, reached by KUBECONFIG
    is_kept: bool  # it was up before and stays up

    def run_kubectl(self, *arguments: str, deadline_s: float = 330.0, text_in: str | None = None) -> str:
        """kubectl's output. Raises CommandError."""
        environment = {**os.environ, "KUBECONFIG": str(self.api.kubeconfig)}
        return run([self.kubectl, *arguments], deadline_s=deadline_s, environment=environment, text_in=text_in)

    def values(self) -> Document:
        """The chart's values for the images under test."""
        images = {}
        for target, image in (("control", self.control_image), ("worker", self.worker_image)):
            repository, _, tag = image.rpartition(":")
            images[target] = {"repository": repository, "tag": tag}
        return {"images": images}

    def helm(self) -> Any:
        """Helm against this cluster, releases kept in the system namespace; the caller closes it."""
        return helm.Config(kubeconfig_path=str(self.api.kubeconfig), namespace=SYSTEM)

    def install(self) -> None:
        """Install the chart if it is not there, and wait until its operator is ready."""
        config = self.helm()
        try:
            if config.list(all_states=True, name_filter=f"^{RELEASE}$"):
                return
            config.install(
                str(CHART),
                RELEASE,
                self.values(),
                namespace=SYSTEM,
                create_namespace=True,
                wait="watcher",
                timeout=HELM_WAIT_S,
            )
        finally:
            config.close()

    def uninstall(self) -> None:
        config = self.helm()
        try:
            config.uninstall(RELEASE, ignore_not_found=True, wait="watcher", timeout=HELM_WAIT_S)
        finally:
            config.close()

    def pods(self, selector: str, *, namespace: str = "default") -> list[Document]:
        """Pods with these labels, the ones that are going included."""
        return self.api.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)

    def worker_pods(self, service: str, *, pool: str | None = None) -> list[Document]:
        """A ModelService's workers that run, of one pool or of all."""
        selector = f"sluice.dev/service={service},app.kubernetes.io/component=worker"
        found = self.pods(selector + (f",sluice.dev/pool={pool}" if pool else ""))
        return [pod for pod in found if pod["status"].get("phase") == "Running" and not is_leaving(pod)]

    def router_pods(self, service: str) -> list[Document]:
        return self.pods(f"sluice.dev/service={service},app.kubernetes.io/component=router")

    def operator_pods(self) -> list[Document]:
        return self.pods("app.kubernetes.io/name=sluice-operator", namespace=SYSTEM)

    def operator_calls(self) -> list[Noted]:
        """What the operator that runs now has asked the API server for; nothing is known of a foreign cluster."""
        addresses = {pod["status"].get("podIP") for pod in self.operator_pods()}
        calls = self.own.control_plane.calls_of(SYSTEM) if self.own is not None else set()
        return sorted(call for call in calls if call.source in addresses)

    def refused_calls(self) -> list[Noted]:
        """Those that it was not allowed."""
        return [call for call in self.operator_calls() if call.status == FORBIDDEN]

    def busiest_node(self, service: str) -> str:
        """The node with the most of a service's workers, and none of the operator's pods if it can be chosen."""
        counts: dict[str, int] = {}
        for pod in self.worker_pods(service):
            counts[pod["spec"]["nodeName"]] = counts.get(pod["spec"]["nodeName"], 0) + 1
        return max(counts, key=lambda name: (counts[name], name))

    def open_nodes(self) -> list[str]:
        """Nodes that take any pod: not cordoned, no taint that keeps pods off."""
        keeps_off = {"NoSchedule", "NoExecute"}
        return [
            node["metadata"]["name"]
            for node in self.api.items("/api/v1/nodes")
            if not node["spec"].get("unschedulable")
            and not any(taint["effect"] in keeps_off for taint in node["spec"].get("taints", []))
        ]

    def set_gpus(self, count: int) -> None:
        """Give every node so many GPUs: extended resources that nothing stands behind. Only on an own cluster."""
        change = {"status": {"capacity": {GPU: str(count)}}}
        for node in self.api.items("/api/v1/nodes"):
            self.api.merge(f"/api/v1/nodes/{node['metadata']['name']}/status", change)

        def is_told() -> bool:
            nodes = self.api.items("/api/v1/nodes")
            return all(node["status"]["allocatable"].get(GPU) == str(count) for node in nodes)

        wait_until(is_told, deadline_s=60, what=f"kubelets offer {count} GPUs")

    def wait_no_free_gpus(self) -> None:
        """Every GPU is taken, and none by a pod that is on its way out."""
        wait_until(lambda: self._free_gpus() == 0, deadline_s=WAIT_S, what="no GPU is free")

    def _free_gpus(self) -> int:
        """GPUs of all nodes that no pod has asked for."""
        nodes = self.api.items("/api/v1/nodes")
        there = sum(int(node["status"]["allocatable"].get(GPU, 0)) for node in nodes)
        pods = [pod for pod in self.api.items("/api/v1/pods") if pod["status"].get("phase") in {"Running", "Pending"}]
        asked = [box["resources"].get("limits", {}).get(GPU, 0) for pod in pods for box in pod["spec"]["containers"]]
        return there - sum(int(count) for count in asked)

    def service_path(self, name: str) -> str:
        return f"{SERVICES}/namespaces/default/modelservices/{name}"

    def scale(self, service: str, pool: str, replicas: int) -> None:
        """Set a pool's size through its /scale, as an autoscaler does."""
        path = f"{SERVICES}/namespaces/default/workerpools/{service}-{pool}/scale"
        self.api.merge(path, {"spec": {"replicas": replicas}})

    def wait_size(self, service: str, pool: str, replicas: int) -> None:
        """Somebody has set a pool's size so. Raises TimeoutError."""
        path = f"{SERVICES}/namespaces/default/workerpools/{service}-{pool}"
        what = f"{service}-{pool} is to have {replicas} workers"
        wait_until(lambda: self.api.get(path)["spec"]["replicas"] == replicas, deadline_s=WAIT_S, what=what)

    def wait_service(self, name: str, condition: str = "Available", *, status: str = "True") -> Document:
        """A ModelService whose condition says so of its present generation. Raises TimeoutError."""
        path = self.service_path(name)
        what = f"ModelService {name}: {condition} is {status}"
        wait_until(lambda: has_condition(self.api.get(path), condition, status), deadline_s=WAIT_S, what=what)
        return self.api.get(path)

    def wait_settled(self, name: str) -> Document:
        """A ModelService with every worker it wants, none leaving, none outdated. Raises TimeoutError."""
        path = self.service_path(name)

        def is_settled() -> bool:
            try:
                found = self.api.get(path)
            except ApiError:
                return False
            pools = found.get("status", {}).get("pools", [])
            wanted = all(self._is_whole(name, pool) for pool in pools)
            return has_condition(found, "Available") and bool(pools) and wanted and self._has_its_routers(name)

        wait_until(is_settled, deadline_s=WAIT_S, what=f"ModelService {name} has settled", every_s=0.5)
        return self.api.get(path)

    def _has_its_routers(self, service: str) -> bool:
        """Whether every router is ready and none is on its way out."""
        found = self.api.get(f"/apis/apps/v1/namespaces/default/deployments/{service}-router")
        is_whole = found["status"].get("readyReplicas", 0) == found["spec"]["replicas"]
        return is_whole and not any(is_leaving(pod) for pod in self.router_pods(service))

    def wait_answers(self, service: str) -> None:
        """Clients on this machine reach a ModelService: the rules that bring them there follow what is ready."""
        url = f"{self.url(service)}/v1/models"

        def answers() -> bool:
            try:
                with urllib.request.urlopen(url, timeout=2) as reply:
                    return bool(reply.status == 200)
            except OSError:
                return False

        wait_until(answers, deadline_s=WAIT_S, what=f"{url} answers")

    def _is_whole(self, service: str, pool: Document) -> bool:
        wanted = self.api.get(f"{SERVICES}/namespaces/default/workerpools/{service}-{pool['name']}")["spec"]["replicas"]
        moving = [pool.get(key, 0) for key in ("starting", "draining", "drained", "outdated")]
        return bool(pool["ready"] == pool["desired"] == wanted) and not any(moving)

    def wait_exists(self, path: str) -> None:
        wait_until(lambda: self.api.exists(path), deadline_s=WAIT_S, what=f"{path} exists")

    def wait_phase(self, pod: str, phase: str) -> None:
        path = f"/api/v1/namespaces/default/pods/{pod}"
        wait_until(
            lambda: self.api.get(path)["status"].get("phase") == phase, deadline_s=WAIT_S, what=f"pod {pod} {phase}"
        )

    def wait_node(self, name: str, *, is_ready: bool) -> None:
        path = f"/api/v1/nodes/{name}"
        what = f"node {name} {'ready' if is_ready else 'not ready'}"
        wait_until(lambda: is_node_ready(self.api.get(path)) is is_ready, deadline_s=WAIT_S, what=what)

    def wait_gone(self, service: str) -> None:
        """Nothing of a ModelService is left. Raises TimeoutError naming what is."""
        left: list[str] = []

        def is_gone() -> bool:
            left[:] = self.objects_of(service)
            return not left

        try:
            wait_until(is_gone, deadline_s=WAIT_S, what="gone")
        except TimeoutError as error:
            raise TimeoutError(f"left of {service}: {', '.join(left)}") from error

    def objects_of(self, service: str) -> list[str]:
        """Every object that carries a service's label, of every kind that the operator makes."""
        found: list[str] = []
        selector = f"sluice.dev/service={service}"
        for kind in OWNED:
            prefix, _, plural = kind.rpartition("/")
            items = self.api.items(f"{prefix}/namespaces/default/{plural}", labelSelector=selector)
            found += [f"{plural}/{item['metadata']['name']}" for item in items]
        return found

    def url(self, service: str) -> str:
        """Where clients on this machine reach a ModelService."""
        found = self.api.get(f"/api/v1/namespaces/default/services/{service}")
        return f"http://{found['spec']['clusterIP']}:8000"

    def kill_container(self, pod: Document) -> None:
        """kill -9 of a pod's main process, from its node: nobody is warned."""
        assert self.own is not None
        node = self.own.node(pod["spec"]["nodeName"])
        node.kill_pod(pod["metadata"]["uid"])

    async def apart(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Run a blocking call while streams go on."""
        return await asyncio.to_thread(call, *arguments, **named)


def find_site() -> Site:
    """The cluster of KUBECONFIG, the one that is kept up here, or a new one of our own.

    Raises UnfitError naming what is missing.
    """
    named = os.environ.get("KUBECONFIG")
    if not named:
        places = Places(cache_root())
        kept = cluster.running(places)
        own = kept or cluster.prepare(places)
        api = Api(own.kubeconfig) if kept else own.up()
        return Site(
            api=api,
            kubectl=own.kubectl,
            control_image=own.images.control,
            worker_image=own.images.worker,
            own=own,
            is_kept=kept is not None,
        )
    images = [os.environ.get(f"SLUICE_E2E_{target}_IMAGE", "") for target in ("CONTROL", "WORKER")]
    kubectl = shutil.which("kubectl")
    if not all(images) or kubectl is None:
        raise UnfitError(
            "KUBECONFIG is set: set SLUICE_E2E_CONTROL_IMAGE and SLUICE_E2E_WORKER_IMAGE to images its nodes can get, "
            "and install kubectl"
        )
    api = Api(Path(named))
    control, worker = images
    return Site(api=api, kubectl=Path(kubectl), control_image=control, worker_image=worker, own=None, is_kept=True)


def has_condition(document: Document, name: str, status: str = "True") -> bool:
    """Whether a resource's status says so about what its spec says now."""
    found = document.get("status", {}).get("conditions", [])
    seen = document.get("status", {}).get("observedGeneration", 0)
    is_current = seen >= document["metadata"].get("generation", 0)
    return is_current and any(one["type"] == name and one["status"] == status for one in found)


def is_leaving(pod: Document) -> bool:
    return "deletionTimestamp" in pod["metadata"]
