"""Workers of one process, put together: engine, transports, stages, links; served until told to stop.

The only place that knows all the parts. Order matters: memory before engine, engine before
transports, everything before the first router hears of us; and the reverse when stopping, with
KV memory unmapped last, because a peer may still be writing (law L4).
"""

import asyncio
import dataclasses
import gc
import logging
import secrets
import signal
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Final

import grpc

from sluice.cli.beside import host_of
from sluice.cli.built_engine import BuiltEngine, embedding_transports, terms_of
from sluice.cli.embedding_side import EmbeddingSide
from sluice.cli.half_turn import HalfTurn
from sluice.clock import SystemClock
from sluice.config.worker import TransferConfig, WorkerConfig
from sluice.decode_worker.arrivals import ArrivalTable
from sluice.decode_worker.migrations import MigrationTable
from sluice.domain.ids import BootId, WorkerId
from sluice.domain.load import LinkLoad, WorkerInfo
from sluice.domain.role import Lifecycle, Role
from sluice.encode_worker.looks import LookTable
from sluice.errors import ConfigError
from sluice.kv_transfer.backends import default_names, open_backends
from sluice.kv_transfer.mover import Mover
from sluice.kv_transfer.paced_transport import LinkModel, PacedTransport
from sluice.kv_transfer.transport import Transport
from sluice.prefill_worker.handoffs import HandoffTable
from sluice.telemetry.metrics import WorkerMetrics
from sluice.telemetry.metrics_server import start_metrics_server
from sluice.wire import channels
from sluice.wire.gen import sluice_pb2_grpc as rpc
from sluice.worker.doorway import Doorway
from sluice.worker.lease_renewal import renew_forever
from sluice.worker.outbound import Outbound, Surroundings
from sluice.worker.peer_service import PeerService
from sluice.worker.peers import OwnSide, Peers, own_identity
from sluice.worker.probing import Prober
from sluice.worker.router_links import RouterLinks
from sluice.worker.shell import Shell

log = logging.getLogger(__name__)

STOP_ENGINE_S: Final = 5.0
DRAIN_LOOK_S: Final = 0.05


class WorkerProcess:
    """All parts of one worker, wired. Made on the event loop; `run` once."""

    def __init__(
        self,
        config: WorkerConfig,
        built: BuiltEngine,
        *,
        boot: BootId,
        transports: Sequence[Transport],
        why_never_another: str = "it was started by itself",
    ) -> None:
        """`transports` are in order of preference; the worker closes them and the KV memory when it ends.
        `why_never_another` says why the process cannot load the model's other half; empty: it can."""
        self._config = config
        self._built = built
        advertise_host = config.advertise_host or config.host
        self._mover = Mover(transports, built.region)
        self._server = channels.make_server()
        kv_port = listen(self._server, host=config.host, port=config.kv_port)
        info = describe(config, built, boot=boot, kv_address=f"{advertise_host}:{kv_port}")
        metrics = WorkerMetrics()
        self._side = EmbeddingSide(config, built.embeddings, boot=boot) if built.embeddings else None
        if self._side is not None:
            info = self._side.named_in(info)
        self._shell = Shell(
            built.engine,
            info,
            metrics,
            SystemClock(),
            vocabulary=built.facts.vocabulary,
            links=self._links,
            router_grace_s=config.router_grace_s,
        )
        identity = own_identity(model_fingerprint=built.facts.fingerprint, geometry=built.engine.geometry)
        own = OwnSide(worker=info.worker, boot=boot, identity=identity, canary=self._shell.canary)
        self._peers = Peers(own, self._mover)
        around = Surroundings(
            shell=self._shell,
            peers=self._peers,
            mover=self._mover,
            view=built.region.view,
            settings=config.transfer,
            metrics=metrics,
            transfers=count(1),
            pushes=count(1),
        )
        self._handoffs = HandoffTable(around)
        self._migrations = MigrationTable(around)
        self._arrivals = ArrivalTable(
            shell=self._shell, mover=self._mover, identity=identity, settings=config.transfer, metrics=metrics,
            view=built.region.view,
        )  # fmt: skip
        built.engine.listen(self._handoffs.on_group)
        self._prober = Prober(around, self._shell.canary, on_replaced=self._arrivals.on_sender_replaced)
        self._shell.attach_stages(
            handoffs=self._handoffs, migrations=self._migrations, arrivals=self._arrivals, fabric=self._prober
        )
        service = PeerService(self._arrivals, lambda: own.hello(self._mover))
        rpc.add_KvPeerServicer_to_server(service, self._server)
        self._looks = self._looking(metrics)
        self._turn = HalfTurn(self._shell, why_never=why_never_another)
        self._door = self._doorway(metrics)

    def _looking(self, metrics: WorkerMetrics) -> LookTable | None:
        """What prepares pictures, on an encode worker."""
        if (sight := self._built.sight) is None:
            return None
        sight.listen(metrics.encoded)
        return LookTable(self._shell, sight.eye, self._config.images, metrics, SystemClock())

    def _doorway(self, metrics: WorkerMetrics) -> Doorway:
        """Who hears what routers say."""
        if self._side is not None:
            self._side.attach(self._shell, metrics)
        return Doorway(
            self._shell,
            takers=[self._turn.take, *([] if self._looks is None else [self._looks.take])],
            hearers=[] if self._side is None else [self._side.viewing.hear],
        )

    @property
    def shell(self) -> Shell:
        """The worker's centre, for those who want to look inside."""
        return self._shell

    async def run(self, stop: asyncio.Event) -> Role | None:
        """Join the routers and work until `stop` is set, or another half of the model is wanted: then for which role.

        Raises what killed the engine or a task.
        """
        observed = await start_metrics_server(
            host=self._config.host,
            port=self._config.metrics_port,
            exposition=self._exposition,
            unhealthy=self._unhealthy,
            unready=self._unready,
        )
        standing = self._shell.standing
        standing.info = dataclasses.replace(standing.info, metrics_address=observed.address)
        await self._server.start()
        self._shell.open()
        links = RouterLinks(self._config.routers, self._door)
        tasks = [
            asyncio.create_task(links.run(), name="router-links"),
            asyncio.create_task(self._renew_leases(), name="lease-renewal"),
            asyncio.create_task(self._arrivals.reap_forever(), name="lease-reaper"),
            asyncio.create_task(self._prober.run(), name="prober"),
            *([] if self._side is None else await self._side.start()),
        ]
        try:
            return await wait_for_end(tasks, self._shell.died, self._turn.wanted, stop)
        finally:
            standing.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await observed.close()
            await self._close()

    async def drain(self, *, deadline_s: float) -> None:
        """Admit nothing more and return when nothing is left here, or at the deadline."""
        standing = self._shell.standing
        self._shell.drain(deadline_s=deadline_s)
        for _ in range(round(deadline_s / DRAIN_LOOK_S)):
            if standing.lifecycle is not Lifecycle.DRAINING:
                return
            await asyncio.sleep(DRAIN_LOOK_S)
        log.warning("drain deadline of %.0f s passed with %d sequences here", deadline_s, self._shell.live_sequences)

    def _open_transfers(self) -> list[Outbound]:
        return [
            *self._handoffs.open_transfers(),
            *self._migrations.open_transfers(),
            *self._prober.open_transfers(),
        ]

    async def _renew_leases(self) -> None:
        await renew_forever(
            lambda: self._shell.info.boot,
            self._open_transfers,
            lease_s=self._config.transfer.lease_s,
        )

    async def _close(self) -> None:
        """Let transfers end within the grace, then take everything apart; memory last."""
        try:
            async with asyncio.timeout(self._config.stop_grace_s):
                await self._handoffs.close()
                await self._migrations.close()
                await self._prober.close()
        except TimeoutError:
            log.warning("transfers were still running after %.0f s", self._config.stop_grace_s)
        if self._looks is not None:
            await self._looks.close()
        await self._peers.close()
        await self._server.stop(grace=0.5)
        await asyncio.to_thread(self._shell.steps.stop, timeout_s=STOP_ENGINE_S)
        await asyncio.to_thread(self._mover.close)
        if self._side is not None:
            await self._side.close()
        if self._built.memory is not None:
            self._built.memory.close()

    def _links(self) -> tuple[LinkLoad, ...]:
        links = self._prober.links(self._mover.stats.snapshot())
        return tuple(_as_emulated(one, link) for one in links) if (link := self._built.link) else links

    def _unready(self) -> list[str]:
        return self._shell.standing.unready(routers=len(self._shell.routers), why=self._shell.unready())

    def _exposition(self) -> bytes:
        return self._shell.standing.exposition(
            leases=self._arrivals.leases,
            orphans=len(self._shell.routers.orphans),
            quarantined_bytes=self._mover.quarantined_bytes,
            is_ready=not self._unready(),
            embeddings=None if self._built.embeddings is None else self._built.embeddings.store.blocks(),
        )

    def _unhealthy(self) -> list[str]:
        is_alive = self._mover.is_alive and (self._side is None or self._side.is_alive)
        reasons = [] if is_alive else ["the KV mover has died"]
        return [*reasons, "the engine has died"] if self._shell.died.done() else reasons


Build = Callable[[WorkerConfig], BuiltEngine]


async def serve(configs: Sequence[WorkerConfig], build: Build) -> None:
    """Build workers and run them in this process until SIGTERM or SIGINT, then drain them.

    A second signal, or the end of one of them, ends all at once. A worker that is alone here may take a role of the
    model's other half, which is built then.
    """
    signalled, stop = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        (stop if signalled.is_set() else signalled).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    lives = [_Life(config, build, is_alone=len(configs) == 1) for config in configs]
    for life in lives:
        life.build()  # nothing runs yet that it could keep waiting
    running = [asyncio.create_task(life.run(stop), name=f"worker {life.config.worker}") for life in lives]
    draining = asyncio.create_task(_drain_when(signalled, lives), name="drain")
    await asyncio.wait([*running, draining], return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    draining.cancel()
    for outcome in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


class _Life:
    """One worker through its incarnations in this process."""

    def __init__(self, config: WorkerConfig, build: Build, *, is_alone: bool) -> None:
        self.config = config
        self._build = build
        self._why_never = "" if is_alone else "it shares its process with another"
        self._built: BuiltEngine | None = None
        self._worker: WorkerProcess | None = None  # None while the other half is loaded

    def build(self) -> None:
        """Load the half of the model that the role needs. Raises ModelLoadError or ConfigError."""
        self._built = self._build(self.config)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; raises what killed it."""
        while self._built is not None and not stop.is_set():
            self._worker = _make(self.config, self._built, why_never_another=self._why_never)
            role = await self._worker.run(stop)
            self._worker = self._built = None
            gc.collect()  # its memory goes before the other half comes
            if role is not None:
                log.info("loading the half of the model that a worker of the role %s needs", role.value)
                self.config = dataclasses.replace(self.config, role=role.value)
                await asyncio.to_thread(self.build)

    async def drain(self) -> None:
        """Admit nothing more; returns when nothing is left here."""
        if self._worker is not None:
            await self._worker.drain(deadline_s=self.config.stop_grace_s)


def _make(config: WorkerConfig, built: BuiltEngine, *, why_never_another: str) -> WorkerProcess:
    """A worker over the transports that this machine has."""
    boot = BootId(secrets.token_hex(8))
    host = config.advertise_host or config.host
    names = config.transfer.transports or default_names(built.region.device)
    if built.sight is not None:
        names = embedding_transports(config)
    backends = open_backends(names, boot=boot, host=config.host, advertise_host=host)
    for name, reason in backends.unavailable:
        log.warning("transport %s is not available: %s", name, reason)
    transports = backends.transports
    if (link := built.link) is not None:
        transports = tuple(PacedTransport(transport, link) for transport in transports)
        config = dataclasses.replace(config, transfer=_scaled(config.transfer, link))
    return WorkerProcess(config, built, boot=boot, transports=transports, why_never_another=why_never_another)


def _scaled(transfer: TransferConfig, link: LinkModel) -> TransferConfig:
    """Settings that count bytes, where a byte stands for many: one small probe, and the floor as it moves."""
    return dataclasses.replace(transfer, probe_mib=0, floor_gb_per_s=transfer.floor_gb_per_s / link.byte_scale)


def _as_emulated(load: LinkLoad, link: LinkModel) -> LinkLoad:
    """What a link has carried, in the bytes that it stands for: placement weighs those."""
    return dataclasses.replace(
        load,
        moved_bytes=round(load.moved_bytes * link.byte_scale),
        gb_per_s=load.gb_per_s * link.byte_scale,
        probe_gb_per_s=load.probe_gb_per_s * link.byte_scale,
    )


async def _drain_when(signalled: asyncio.Event, lives: Sequence[_Life]) -> None:
    await signalled.wait()
    await asyncio.gather(*(life.drain() for life in lives))


def describe(config: WorkerConfig, built: BuiltEngine, *, boot: BootId, kv_address: str) -> WorkerInfo:
    """What this worker will say of itself to routers."""
    return WorkerInfo(
        worker=WorkerId(config.worker),
        boot=boot,
        role=Role(config.role),
        model=config.model_name or Path(config.model_path).name,
        model_fingerprint=built.facts.fingerprint,
        kv_address=kv_address,
        block_tokens=built.engine.geometry.block_tokens,
        blocks=built.engine.geometry.blocks,
        sequence_tokens_max=built.engine.limits.sequence_tokens_max,
        batch_sequences_max=built.engine.limits.batch_sequences_max,
        device=built.facts.device,
        gpu_class=built.standpoint.gpu_class,
        tensor_parallel=built.standpoint.tensor_parallel,
        price_per_h=built.standpoint.price_per_h,
        link_bytes_per_s=built.standpoint.link_bytes_per_s,
        kv_token_bytes=built.standpoint.kv_token_bytes,
        step_terms=terms_of(built.standpoint.curve),
        image_fingerprint=built.facts.fingerprint if built.sight is not None else "",
        beside=host_of(config),
    )


def listen(server: grpc.aio.Server, *, host: str, port: int) -> int:
    """The port the KvPeer service listens on. Raises ConfigError if it is taken."""
    try:
        return server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise ConfigError(f"kv_port: cannot listen on {host}:{port}; free it or choose another") from error


async def wait_for_end(
    tasks: Sequence["asyncio.Task[None]"],
    died: "asyncio.Future[None]",
    turned: "asyncio.Future[Role]",
    stop: asyncio.Event,
) -> Role | None:
    """Return when `stop` is set, or `turned` with what it says; raise what ended a task or the engine that should
    have gone on."""
    stopping = asyncio.create_task(stop.wait(), name="stop")
    waited: list[asyncio.Future[object]] = [*tasks, died, turned, stopping]  # type: ignore[list-item]  # invariant
    done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for ended in done:
        if ended is not stopping:
            ended.result()
    return turned.result() if turned.done() else None
