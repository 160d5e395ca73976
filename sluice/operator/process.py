"""One operator process: puts the parts together, acts while it holds the lease, stops cleanly.

kopf watches; what it sees only says which service to look at. Never decides. Next: `handlers.py` for
what kopf calls, `reconcile.py` for a look.
"""

import asyncio
import logging
import socket
import time
from pathlib import Path
from typing import Final

import kopf

from sluice.clock import SystemClock
from sluice.config import load
from sluice.config.operator import OperatorConfig
from sluice.operator import names
from sluice.operator.act import Hands
from sluice.operator.api_cluster import ApiCluster
from sluice.operator.connection import connection, credentials
from sluice.operator.election import Election
from sluice.operator.manifest import Kind, LiveObject, Ref
from sluice.operator.observation import NodeView, node_view
from sluice.operator.reconcile import Surroundings, reconcile
from sluice.operator.router_calls import RouterCalls
from sluice.operator.work_queue import WorkQueue

log = logging.getLogger(__name__)

CONFIG_VARIABLE: Final = "SLUICE_OPERATOR_CONFIG"
CONFIG_PATH: Final = "/etc/sluice/operator.yaml"

CHILDREN_GATHER_S: Final = 0.3
"""Objects of a service change in flocks, our own writes among them: one look sees them all."""


def read_config() -> OperatorConfig:
    """Settings from the file that the environment names, else from the usual place, else the defaults.

    Raises ConfigError.
    """
    named = load.from_environment(CONFIG_VARIABLE)
    path = Path(named or CONFIG_PATH)
    return load.load(path, OperatorConfig) if named or path.exists() else OperatorConfig()


class Operator:
    """The parts of one operator. Made and used on kopf's event loop."""

    def __init__(self, config: OperatorConfig) -> None:
        self._config = config
        self._cluster = ApiCluster(lambda: connection(credentials()))
        self._routers = RouterCalls()
        self._nodes: dict[str, NodeView] = {}
        self._services: dict[Ref, int] = {}  # the generation of each spec that was last heard of
        clock = SystemClock()
        self._clock = clock
        self._queue = WorkQueue(
            self._look,
            clock,
            parallel_max=config.parallel_services_max,
            retry_s_max=config.retry_s_max,
        )
        self._election = Election(
            self._cluster,
            clock,
            me=config.identity or socket.gethostname(),
            namespace=config.lease_namespace,
            lease_s=config.lease_s,
            on_change=self._on_change,
        )
        self._around: Surroundings | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Find out what the server offers, then take part in the election. Raises ClusterApiError."""
        groups = await self._cluster.groups()
        is_new = Kind.DISRUPTION_BUDGET.value.api_version in groups
        self._around = Surroundings(
            hands=Hands(cluster=self._cluster, routers=self._routers),
            clock=self._clock,
            wall_s=time.time,
            config=self._config,
            budget=Kind.DISRUPTION_BUDGET if is_new else Kind.DISRUPTION_BUDGET_BETA,
            nodes=self._nodes,
        )
        self._tasks = [
            asyncio.create_task(self._queue.run(), name="work queue"),
            asyncio.create_task(self._election.run(), name="election"),
        ]

    async def stop(self) -> None:
        """End looks under way, give the lease back, close connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._routers.close()
        await self._cluster.close()

    def service_changed(self, body: LiveObject, *, is_gone: bool) -> None:
        """A ModelService was made, changed or deleted."""
        ref = Ref(Kind.MODEL_SERVICE, body["metadata"]["namespace"], body["metadata"]["name"])
        generation = body["metadata"].get("generation", 0)
        if is_gone:
            self._services.pop(ref, None)
        elif self._services.get(ref) == generation:
            return  # its status has changed, by our own hand
        else:
            self._services[ref] = generation
        self._queue.ask_first(ref)

    def child_changed(self, body: LiveObject) -> None:
        """Something that belongs to a ModelService has changed."""
        metadata = body["metadata"]
        service = (metadata.get("labels") or {}).get(names.LABEL_SERVICE)
        if service:
            ref = Ref(Kind.MODEL_SERVICE, metadata["namespace"], service)
            if ref in self._services:
                self._queue.ask(ref, after_s=CHILDREN_GATHER_S)

    def class_changed(self) -> None:
        """A GPUClass has changed: every service may be concerned."""
        for ref in self._services:
            self._queue.ask(ref)

    def node_changed(self, body: LiveObject, *, is_gone: bool) -> None:
        """A node was cordoned, tainted or removed, or just said that it lives."""
        name = body["metadata"]["name"]
        before = self._nodes.get(name)
        if is_gone:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = node_view(body)
        if before != self._nodes.get(name):
            self.class_changed()

    async def _look(self, ref: Ref) -> float | None:
        if not self._election.is_held or self._around is None:
            return None  # whoever acts looks; when it is us, every service is asked for anew
        return (await reconcile(ref, self._around)).again_s

    def _on_change(self, is_held: bool) -> None:  # noqa: FBT001 - a callback
        if is_held:
            self.class_changed()


def configure(settings: kopf.OperatorSettings) -> None:
    """kopf only watches for us: no annotations, no finalizers, no events, and it never gives up on a server."""
    settings.posting.enabled = False
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.networking.error_backoffs = [1, 1, 2, 3, 5, 8, 13, 20, 30]
    settings.networking.request_timeout = 30
