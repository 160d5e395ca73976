"""Where a worker that reads images takes them in: a store, its transports, and a KvPeer service of its own.

The receiving half of the handoff, once more, over other memory (docs/adr/0014). Made before the shell, so that
the worker can say where embeddings go; completed by `attach`. Next: `prefill_worker/viewing.py`.
"""

import asyncio
from dataclasses import replace

from sluice.cli.built_engine import BuiltStore, embedding_transports
from sluice.config.worker import WorkerConfig
from sluice.decode_worker.arrivals import ArrivalTable
from sluice.domain.ids import BootId, WorkerId
from sluice.domain.load import WorkerInfo
from sluice.errors import ConfigError
from sluice.kv_transfer.backends import open_backends
from sluice.kv_transfer.mover import Mover
from sluice.prefill_worker.viewing import Viewing
from sluice.telemetry.metrics import WorkerMetrics
from sluice.wire import channels
from sluice.wire.gen import sluice_pb2_grpc as rpc
from sluice.worker.peer_service import PeerService
from sluice.worker.peers import OwnSide, own_identity
from sluice.worker.shell import Shell


class EmbeddingSide:
    """One worker's inlet for embeddings. Whoever makes it closes it."""

    def __init__(self, config: WorkerConfig, built: BuiltStore, *, boot: BootId) -> None:
        """Opens transports and port. Raises ConfigError if the port cannot be had."""
        self.boot = BootId(f"{boot}-images")
        self.fingerprint = built.fingerprint
        self._config = config
        self._built = built
        host = config.advertise_host or config.host
        backends = open_backends(embedding_transports(config), boot=self.boot, host=config.host, advertise_host=host)
        self._mover = Mover(backends.transports, built.region)
        self._server = channels.make_server()
        try:
            port = self._server.add_insecure_port(f"{config.host}:0")
        except RuntimeError as error:
            raise ConfigError(f"host: cannot listen on {config.host} for embeddings; choose another") from error
        self.address = f"{host}:{port}"
        self.viewing: Viewing
        self.arrivals: ArrivalTable

    def named_in(self, info: WorkerInfo) -> WorkerInfo:
        """What the worker says of itself, with where embeddings go."""
        geometry = self._built.store.geometry
        return replace(
            info,
            image_address=self.address,
            image_boot=self.boot,
            image_fingerprint=self.fingerprint,
            image_tokens_max=geometry.blocks * geometry.block_tokens,
        )

    def attach(self, shell: Shell, metrics: WorkerMetrics) -> None:
        """Serve for this shell's prompts; before `start`."""
        store, settings = self._built.store, self._config.transfer
        identity = own_identity(model_fingerprint=self.fingerprint, geometry=store.geometry)
        self.viewing = Viewing(shell, store, boot=self.boot, patience_s=settings.lease_s)
        self.arrivals = ArrivalTable(
            shell=self.viewing,
            mover=self._mover,
            identity=identity,
            settings=settings,
            metrics=metrics,
            view=self._built.region.view,
        )
        own = OwnSide(worker=WorkerId(self._config.worker), boot=self.boot, identity=identity)
        service = PeerService(self.arrivals, lambda: own.hello(self._mover))
        rpc.add_KvPeerServicer_to_server(service, self._server)

    async def start(self) -> list["asyncio.Task[None]"]:
        """Begin to serve; the tasks run until cancelled."""
        await self._server.start()
        return [
            asyncio.create_task(self.arrivals.reap_forever(), name="embedding-reaper"),
            asyncio.create_task(self.viewing.run(), name="viewing"),
        ]

    async def close(self) -> None:
        """Serve no more; the memory goes last."""
        await self._server.stop(grace=0.5)
        await asyncio.to_thread(self._mover.close)
        self._built.memory.close()

    @property
    def is_alive(self) -> bool:
        """Whether embeddings can come in."""
        return self._mover.is_alive
