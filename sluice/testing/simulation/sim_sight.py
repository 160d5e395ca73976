"""Where a simulated worker takes in embeddings: production's store, viewing and arrivals over a virtual mover.

The counterpart of `cli/embedding_side.py`. Next: `sim_worker.py`, whose part it is.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from sluice.clock import Clock
from sluice.config.worker import TransferConfig
from sluice.decode_worker.arrivals import ArrivalTable
from sluice.domain.ids import BootId, WorkerId
from sluice.domain.kv import KvGeometry
from sluice.domain.load import WorkerInfo
from sluice.engine.embedding_store import EmbeddingStore
from sluice.prefill_worker.viewing import Viewing
from sluice.telemetry.metrics import WorkerMetrics
from sluice.testing.simulation import toy_sight
from sluice.testing.simulation.network import PEER, Network
from sluice.testing.simulation.virtual_loop import Process
from sluice.testing.simulation.virtual_mover import Landing, VirtualMover
from sluice.worker.peer_service import PeerService
from sluice.worker.peers import OwnSide, own_identity
from sluice.worker.shell import Shell


class SimInlet:
    """One incarnation's inlet for embeddings."""

    def __init__(
        self,
        network: Network,
        process: Process,
        *,
        boot: BootId,
        blocks: int,
        movers: dict[BootId, VirtualMover],
        on_landing: Landing,
        clock: Clock,
        settings: TransferConfig,
    ) -> None:
        self.boot = BootId(f"{boot}-images")
        self.address = f"{process.name}-images"
        geometry = toy_sight.geometry(blocks=blocks)
        memory = bytearray(geometry.region_bytes)
        self._view = memoryview(memory)
        self.store = EmbeddingStore(geometry, self._view)
        self.mover = VirtualMover(network, process, self.boot, memory, movers, on_landing, clock)
        self._network = network
        self._process = process
        self._settings = settings
        self.viewing: Viewing
        self.arrivals: ArrivalTable

    @property
    def geometry(self) -> KvGeometry:
        """Of the store."""
        return self.store.geometry

    def named_in(self, info: WorkerInfo) -> WorkerInfo:
        """What the worker says of itself, with where embeddings go."""
        return replace(
            info, image_address=self.address, image_boot=self.boot, image_fingerprint=toy_sight.FINGERPRINT,
            image_tokens_max=self.geometry.blocks * self.geometry.block_tokens,
        )  # fmt: skip

    def attach(self, shell: Shell, metrics: WorkerMetrics) -> None:
        """Serve for this shell's prompts."""
        identity = own_identity(model_fingerprint=toy_sight.FINGERPRINT, geometry=self.geometry)
        self.viewing = Viewing(shell, self.store, boot=self.boot, patience_s=self._settings.lease_s)
        self.arrivals = ArrivalTable(
            shell=self.viewing,
            mover=self.mover,
            identity=identity,
            settings=self._settings,
            metrics=metrics,
            view=self._view,
        )
        own = OwnSide(worker=WorkerId(self._process.name), boot=self.boot, identity=identity)
        service = PeerService(self.arrivals, lambda: own.hello(self.mover))
        self._network.listen(self.address, PEER, self._process, service)

    def start(self) -> list["asyncio.Task[None]"]:
        """Begin to serve."""
        return [
            asyncio.create_task(self.arrivals.reap_forever(), name="embedding-reaper"),
            asyncio.create_task(self.viewing.run(), name="viewing"),
        ]

    def leftovers(self, is_alive: Callable[[BootId], bool]) -> dict[str, int]:
        """What is held here for anybody; not what a dead peer may still write, as in `sim_worker.py`."""
        counts = self.store.blocks()
        self.store.check_integrity()
        doomed = [one for one in self.arrivals.quarantined if not is_alive(one.key[0])]
        lost = {block for one in doomed for block in one.reservation.blocks}
        lost_bytes = sum(self.mover.granted_bytes(one.grant) for one in doomed)
        return {
            "images that wait for a reader": self.viewing.early,
            "reservations of embeddings": self.arrivals.leases - len(doomed),
            "blocks of embeddings in use": counts.active + counts.held + counts.reserved - len(lost),
            "quarantined bytes of embeddings": self.mover.quarantined_bytes - lost_bytes,
            "open grants of embeddings": len(self.mover.open_grants),
        }
