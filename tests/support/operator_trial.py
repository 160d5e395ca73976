"""An operator and a small world around it: write a ModelService, let time pass, look at what is there."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from sluice.clock import ManualClock
from sluice.config.operator import OperatorConfig
from sluice.operator.act import Hands
from sluice.operator.manifest import Kind, Manifest, Ref
from sluice.operator.observation import NodeView
from sluice.operator.reconcile import Done, Surroundings, reconcile
from sluice.testing.cluster.fake_cluster import CrashError
from sluice.testing.cluster.small_world import SmallWorld

NAMESPACE = "default"
CONFIG = OperatorConfig(router_image="control:1", worker_image="worker:1", scaling_s=30.0)


def model_service(name: str = "demo", **spec: Any) -> Manifest:
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "ModelService",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def service_ref(name: str = "demo") -> Ref:
    return Ref(Kind.MODEL_SERVICE, NAMESPACE, name)


@dataclass
class Trial:
    """Everything one operator sees. `restart` forgets what it remembered."""

    world: SmallWorld = field(default_factory=SmallWorld)
    config: OperatorConfig = CONFIG
    nodes: dict[str, NodeView] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = ManualClock(1000.0)
        self.restart()

    def restart(self) -> None:
        self.around = Surroundings(
            hands=Hands(cluster=self.world.cluster, routers=self.world),
            clock=self.clock,
            wall_s=self.world.wall_s,
            config=self.config,
            budget=Kind.DISRUPTION_BUDGET,
            nodes=self.nodes,
        )

    def write(self, service: Manifest) -> Ref:
        return self.world.cluster.put(service)

    def edit(self, ref: Ref, **spec: Any) -> None:
        self.world.cluster.edit(ref, {"spec": spec})

    def look(self, ref: Ref) -> Done:
        return asyncio.run(reconcile(ref, self.around))

    def step(self, ref: Ref, *, seconds: float = 1.0) -> None:
        """One look, surviving a crash, and then one tick of everything else."""
        try:
            self.look(ref)
        except CrashError:
            self.restart()
        self.world.tick(seconds=seconds)
        self.clock.advance(seconds)

    def settle(self, ref: Ref, *, ticks_max: int = 200) -> int:
        """Looks and ticks until a look writes nothing and expects nothing; how many it took."""
        for tick in range(ticks_max):
            before = len(self.world.cluster.writes)
            try:
                done = self.look(ref)
            except CrashError:
                self.restart()
                done = Done(0.0)
            self.world.tick()
            self.clock.advance(1.0)
            if len(self.world.cluster.writes) == before and done.again_s == self.config.resync_s:
                return tick
        raise AssertionError(f"not settled after {ticks_max} ticks: {self.condition(ref, 'Progressing')}")

    # ------------------------------------------------------------ looking

    def status(self, ref: Ref) -> dict[str, Any]:
        return self.world.cluster.objects[ref].get("status") or {}

    def condition(self, ref: Ref, kind: str) -> dict[str, Any]:
        return next((one for one in self.status(ref).get("conditions", ()) if one["type"] == kind), {})

    def pool(self, ref: Ref, name: str) -> dict[str, Any]:
        return next(one for one in self.status(ref)["pools"] if one["name"] == name)

    def worker_pods(self, pool: str = "") -> list[str]:
        return sorted(
            pod["metadata"]["name"]
            for pod in self.world.placed()
            if not pool or pod["metadata"]["labels"]["sluice.dev/pool"] == pool
        )

    def scale(self, pool: str, replicas: int) -> None:
        """What `kubectl scale workerpool` does."""
        self.world.cluster.edit(Ref(Kind.WORKER_POOL, NAMESPACE, f"demo-{pool}"), {"spec": {"replicas": replicas}})
