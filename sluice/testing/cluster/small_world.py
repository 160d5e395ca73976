"""The rest of a cluster, one tick at a time: ReplicaSets, scheduler, kubelets, workers with requests, routers.

Pods shrink away in the ReplicaSet controller's own order. Requests move from a draining worker to a ready one that
admits them, one a tick; one on a worker whose pod goes while nobody can take it is counted as lost. Time is a number.
Next: `fake_cluster.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from sluice.domain.ids import BootId, WorkerId
from sluice.domain.load import LinkLoad, WorkerInfo, WorkerLoad
from sluice.domain.role import Lifecycle, Role
from sluice.errors import NoWorkerError
from sluice.operator import names
from sluice.operator.coverage import PHASES
from sluice.operator.manifest import Kind, Manifest, Ref
from sluice.operator.routers import RouterReport, Traffic, WorkerView
from sluice.testing.cluster.fake_cluster import FakeCluster

FINGERPRINT = "f00d"
BATCH_SEQUENCES_MAX = 64
BLOCKS = 100


def worker_view(name: str, role: Role, load: WorkerLoad, *, router: str) -> WorkerView:
    """A worker of this world as its router tells of it."""
    info = WorkerInfo(
        worker=WorkerId(name),
        boot=BootId(f"{name}-1"),
        role=role,
        model="fake",
        model_fingerprint=FINGERPRINT,
        kv_address="",
        block_tokens=16,
        blocks=BLOCKS,
        sequence_tokens_max=1024,
        batch_sequences_max=BATCH_SEQUENCES_MAX,
        device="cpu",
    )
    return WorkerView(router=router, info=info, load=load)


@dataclass(slots=True)
class FakeWorker:
    """A worker process: its state, and requests by the phase they are in."""

    role: Role
    lifecycle: Lifecycle = Lifecycle.READY
    sequences: int = 0

    def admits(self, phase: Role) -> bool:
        return self.lifecycle is Lifecycle.READY and phase in PHASES[self.role]


@dataclass(slots=True)
class SmallWorld:
    """A cluster with `places` for worker pods. It is also the Routers that the operator asks."""

    places: int = 100
    now_s: float = 1_800_000_000.0
    bad_revisions: set[str] = field(default_factory=set)  # workers of these never become ready
    cluster: FakeCluster = field(init=False)
    workers: dict[str, FakeWorker] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    links: tuple[LinkLoad, ...] = ()  # what every worker says of its links
    lost_requests: int = 0
    pods_max: int = 0  # the most worker pods that ever held a place
    cordoned: set[str] = field(default_factory=set)
    _numbers: "count[int]" = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.cluster = FakeCluster(wall_s=self.wall_s)

    # ------------------------------------------------------------ Routers

    async def look(self, addresses: Sequence[str]) -> RouterReport:
        """See Routers."""
        if not addresses:
            return RouterReport()
        views = [
            worker_view(
                name,
                worker.role,
                WorkerLoad(
                    lifecycle=worker.lifecycle,
                    running_sequences=worker.sequences,
                    free_blocks=BLOCKS,
                    links=self.links,
                ),
                router=addresses[0],
            )
            for name, worker in self.workers.items()
        ]
        return RouterReport(workers=tuple(views), traffic=self.traffic)

    async def drain(self, worker: WorkerView, *, deadline_s: float) -> None:
        """See Routers."""
        assert deadline_s >= 0
        one = self._worker(worker)
        if one.lifecycle is Lifecycle.READY:
            one.lifecycle = Lifecycle.DRAINING

    async def resume(self, worker: WorkerView) -> None:
        """See Routers."""
        self._worker(worker).lifecycle = Lifecycle.READY

    async def flip(self, worker: WorkerView, role: Role) -> None:
        """See Routers."""
        one = self._worker(worker)
        assert one.lifecycle is Lifecycle.DRAINED or role is Role.MIXED or one.role in {Role.MIXED, role}
        one.role, one.lifecycle = role, Lifecycle.READY

    def _worker(self, view: WorkerView) -> FakeWorker:
        if view.worker not in self.workers:
            raise NoWorkerError(f"{view.worker} is not connected")
        return self.workers[view.worker]

    # ------------------------------------------------------------ time

    def tick(self, *, seconds: float = 1.0) -> None:
        """Everyone does a little."""
        self.now_s += seconds
        self._replicate()
        self._move_requests()
        self._end_pods()
        self._schedule()
        self._run_pods()
        self.pods_max = max(self.pods_max, len(self.placed()))

    def placed(self) -> list[Manifest]:
        """Worker pods that are on a node."""
        return [pod for pod in self._worker_pods() if pod["spec"].get("nodeName")]

    def _worker_pods(self) -> list[Manifest]:
        pods = self.cluster.of(Kind.POD)
        return [pod for pod in pods if pod["metadata"]["labels"][names.LABEL_COMPONENT] == names.COMPONENT_WORKER]

    def _replicate(self) -> None:
        for deployment in self.cluster.of(Kind.DEPLOYMENT):
            selector = deployment["spec"]["selector"]["matchLabels"]
            namespace = deployment["metadata"]["namespace"]
            own = [
                pod
                for pod in self.cluster.of(Kind.POD)
                if pod["metadata"]["namespace"] == namespace
                and selector.items() <= pod["metadata"]["labels"].items()
                and not pod["metadata"].get("deletionTimestamp")
            ]
            missing = deployment["spec"]["replicas"] - len(own)
            for _ in range(missing):
                self._new_pod(deployment)
            for pod in sorted(own, key=self._removal_order)[: max(0, -missing)]:
                self.cluster.remove(Ref(Kind.POD, namespace, pod["metadata"]["name"]))

    def _removal_order(self, pod: Manifest) -> tuple[bool, bool, bool, str]:
        """Without a node, then not running, then not ready, then the others (client-go's ActivePods)."""
        ready = any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"]["conditions"])
        return (
            bool(pod["spec"].get("nodeName")),
            pod["status"]["phase"] == "Running",
            ready,
            pod["metadata"]["name"],
        )

    def _new_pod(self, deployment: Manifest) -> None:
        metadata = deployment["metadata"]
        template = deployment["spec"]["template"]
        owner = {"uid": metadata["uid"], "kind": "Deployment", "name": metadata["name"]}
        self.cluster.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{metadata['name']}-{next(self._numbers):04d}",
                    "namespace": metadata["namespace"],
                    "labels": dict(template["metadata"]["labels"]),
                    "ownerReferences": [owner],
                },
                "spec": {"containers": []},
                "status": {"phase": "Pending", "conditions": []},
            }
        )

    def _schedule(self) -> None:
        for pod in self._unplaced():
            is_worker = pod["metadata"]["labels"][names.LABEL_COMPONENT] == names.COMPONENT_WORKER
            if is_worker and len(self.placed()) >= self.places:
                full = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}
                if pod["status"]["conditions"] != [full]:
                    self.cluster.edit(_ref(pod), {"status": {"conditions": [full]}})
                continue
            node = "n2" if "n1" in self.cordoned else "n1"
            self.cluster.edit(_ref(pod), {"spec": {"nodeName": node}})

    def _unplaced(self) -> list[Manifest]:
        return [pod for pod in self.cluster.of(Kind.POD) if not pod["spec"].get("nodeName")]

    def _run_pods(self) -> None:
        for pod in self.cluster.of(Kind.POD):
            name, labels = pod["metadata"]["name"], pod["metadata"]["labels"]
            if not pod["spec"].get("nodeName") or pod["metadata"].get("deletionTimestamp"):
                continue
            if pod["status"]["phase"] != "Running":
                status = {"phase": "Running", "podIP": f"10.0.0.{len(self.workers) % 250 + 1}"}
                self.cluster.edit(_ref(pod), {"status": status})
                continue
            is_ready = True
            if labels[names.LABEL_COMPONENT] == names.COMPONENT_WORKER:
                if labels[names.LABEL_REVISION] not in self.bad_revisions and name not in self.workers:
                    self.workers[name] = FakeWorker(self._home_role(pod))
                worker = self.workers.get(name)
                is_ready = worker is not None and worker.lifecycle is Lifecycle.READY
            condition = {"type": "Ready", "status": "True" if is_ready else "False"}
            if pod["status"]["conditions"] != [condition]:
                self.cluster.edit(_ref(pod), {"status": {"conditions": [condition]}})

    def _home_role(self, pod: Manifest) -> Role:
        pool = pod["metadata"]["labels"][names.LABEL_POOL]
        return next((role for role in Role if pool.startswith(role.value)), Role.MIXED)

    def _move_requests(self) -> None:
        for name, worker in self.workers.items():
            if worker.lifecycle is not Lifecycle.DRAINING:
                continue
            target = self._target(name, worker)
            if worker.sequences and target is not None:
                worker.sequences -= 1
                target.sequences += 1
            if not worker.sequences:
                worker.lifecycle = Lifecycle.DRAINED

    def _target(self, name: str, worker: FakeWorker) -> FakeWorker | None:
        phase = Role.PREFILL if worker.role is Role.PREFILL else Role.DECODE
        able = [other for key, other in self.workers.items() if key != name and other.admits(phase)]
        return min(able, key=lambda other: other.sequences, default=None)

    def _end_pods(self) -> None:
        """SIGTERM drains too; a pod whose worker is empty, or never was one, goes."""
        for pod in self.cluster.of(Kind.POD):
            if not pod["metadata"].get("deletionTimestamp"):
                continue
            name = pod["metadata"]["name"]
            worker = self.workers.get(name)
            if worker is not None and worker.lifecycle is Lifecycle.READY:
                worker.lifecycle = Lifecycle.DRAINING
                continue
            if worker is not None and worker.sequences and self._target(name, worker) is None:
                self.lost_requests += worker.sequences
                worker.sequences = 0
            if worker is None or not worker.sequences:
                self.workers.pop(name, None)
                self.cluster.drop(_ref(pod))

    # ------------------------------------------------------------ what may happen

    def crash(self, name: str) -> None:
        """A worker's process dies; the kubelet starts it again."""
        self.workers.pop(name, None)
        self.cluster.edit(_ref(self._pod(name)), {"status": {"phase": "Pending", "conditions": []}})

    def cordon(self, node: str) -> None:
        """No new pods on this node."""
        self.cordoned.add(node)

    def _pod(self, name: str) -> Manifest:
        return next(pod for pod in self.cluster.of(Kind.POD) if pod["metadata"]["name"] == name)

    def count(self, **changes: int) -> None:
        """Clients did something."""
        self.traffic = replace(self.traffic, **changes)

    def wall_s(self) -> float:
        """The time of day."""
        return self.now_s


def _ref(pod: Manifest) -> Ref:
    return Ref(Kind.POD, pod["metadata"]["namespace"], pod["metadata"]["name"])
