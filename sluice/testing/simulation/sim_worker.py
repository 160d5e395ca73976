"""One simulated worker: production's shell, stages, peers and links over a toy engine and a virtual mover.

The counterpart of `cli/worker_process.py`, part by part; an incarnation ends with its process and
a new one starts under another boot id. Next: `toy_engine.py`, `virtual_mover.py`.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Literal, Protocol

from sluice.clock import Clock
from sluice.config.worker import ImagesConfig, TransferConfig
from sluice.decode_worker.arrivals import ArrivalTable
from sluice.decode_worker.migrations import MigrationTable
from sluice.domain.ids import BootId, WorkerId
from sluice.domain.kv import KvGeometry
from sluice.domain.load import LinkLoad, WorkerInfo
from sluice.domain.role import Role
from sluice.encode_worker.looks import LookTable
from sluice.engine.contract import Engine, EngineLimits, StepReport
from sluice.kv_transfer.transport import Push
from sluice.prefill_worker.handoffs import HandoffTable
from sluice.telemetry.metrics import WorkerMetrics
from sluice.testing.simulation import toy_model, toy_sight
from sluice.testing.simulation.channel import connector
from sluice.testing.simulation.network import PEER, Network
from sluice.testing.simulation.receiving import Receiving, ReceivingEngine, ReceivingStore
from sluice.testing.simulation.sim_sight import SimInlet
from sluice.testing.simulation.toy_engine import toy_engine
from sluice.testing.simulation.virtual_loop import Process
from sluice.testing.simulation.virtual_mover import VirtualMover
from sluice.testing.simulation.virtual_steps import VirtualSteps
from sluice.worker.doorway import Doorway
from sluice.worker.lease_renewal import renew_forever
from sluice.worker.outbound import Outbound, Surroundings
from sluice.worker.peer_service import PeerService
from sluice.worker.peers import OwnSide, Peers, own_identity
from sluice.worker.probing import Prober
from sluice.worker.router_link import RouterLink
from sluice.worker.shell import Shell

FINGERPRINT: Final = "toy"
LOOKS_MAX: Final = 8
METRICS: Final = WorkerMetrics()  # one for all: nobody reads them here


def simulated(
    *, lease_s: float, checksums: Literal["always", "off"] = "always", copy_share: float = 1.0
) -> TransferConfig:
    """Settings for links whose speed is the weather's: probed with as little as can be, and never called slow."""
    return TransferConfig(lease_s=lease_s, checksums=checksums, copy_share=copy_share, floor_gb_per_s=0.0, probe_mib=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What one worker of a simulation is, through all its incarnations."""

    name: str
    role: Role = Role.MIXED
    blocks: int = 64
    image_blocks: int = 0  # of the store where embeddings arrive; 0: it reads text alone
    block_tokens: int = 16
    limits: EngineLimits = field(
        default_factory=lambda: EngineLimits(batch_sequences_max=8, step_tokens_max=64, sequence_tokens_max=256)
    )
    transfer: TransferConfig = field(default_factory=lambda: simulated(lease_s=6.0))


class Watcher(Protocol):
    """Who hears what the laws are about."""

    def fail(self, what: str) -> None: ...

    def on_step(self, boot: str, report: StepReport) -> None: ...

    def on_landing(self, target: Receiving, worker: str, push: Push) -> None: ...


@dataclass(frozen=True, kw_only=True)
class WorkerSurroundings:
    """What all workers of a simulation share."""

    network: Network
    watcher: Watcher
    movers: dict[BootId, VirtualMover]
    pools: dict[BootId, Receiving]
    routers: Sequence[str]
    step_s: Callable[[], float]


class SimWorker:
    """One incarnation. Made inside its process; `run` until it dies."""

    def __init__(
        self, plan: WorkerPlan, around: WorkerSurroundings, *, process: Process, boot: BootId, clock: Clock
    ) -> None:
        self.plan = plan
        self.process = process
        self.boot = boot
        self._around = around
        network = around.network
        self._clock = clock
        self._eye: toy_sight.ToyEye | None = None
        pool, kv_memory = self._make_engine()
        view = memoryview(kv_memory)
        around.pools[boot] = ReceivingEngine(self.engine)
        self.mover = VirtualMover(network, process, boot, kv_memory, around.movers, self._on_landing, clock)
        self.inlet = self._make_inlet() if plan.image_blocks else None
        info = self._info()
        self.shell = Shell(
            self.engine, info if self.inlet is None else self.inlet.named_in(info), METRICS, clock,
            vocabulary=toy_model.VOCABULARY if self._eye is None else toy_sight.VOCABULARY,
            make_steps=self._steps, links=self._links,
        )  # fmt: skip
        identity = own_identity(model_fingerprint=info.model_fingerprint, geometry=pool)
        own = OwnSide(worker=WorkerId(plan.name), boot=boot, identity=identity, canary=self.shell.canary)
        self.peers = Peers(own, self.mover, connect=connector(network, process))
        surroundings = Surroundings(
            shell=self.shell,
            peers=self.peers,
            mover=self.mover,
            view=view,
            settings=plan.transfer,
            metrics=METRICS,
            transfers=count(1),
            pushes=count(1),
        )
        self.handoffs = HandoffTable(surroundings)
        self.migrations = MigrationTable(surroundings)
        self.arrivals = ArrivalTable(
            shell=self.shell,
            mover=self.mover,
            identity=identity,
            settings=plan.transfer,
            metrics=METRICS,
            view=view,
        )
        self.engine.listen(self.handoffs.on_group)
        self.prober = Prober(surroundings, self.shell.canary, on_replaced=self.arrivals.on_sender_replaced)
        self.shell.attach_stages(
            handoffs=self.handoffs, migrations=self.migrations, arrivals=self.arrivals, fabric=self.prober
        )
        service = PeerService(self.arrivals, lambda: own.hello(self.mover))
        network.listen(plan.name, PEER, process, service)
        if self.inlet is not None:
            self.inlet.attach(self.shell, METRICS)
        settings = ImagesConfig(looks_max=LOOKS_MAX)
        self.looks = LookTable(self.shell, self._eye, settings, METRICS, clock) if self._eye is not None else None
        self._door = Doorway(
            self.shell,
            takers=[] if self.looks is None else [self.looks.take],
            hearers=[] if self.inlet is None else [self.inlet.viewing.hear],
        )

    def _make_engine(self) -> tuple[KvGeometry, bytearray]:
        """The half of the toy model that the role asks for, over memory of its own."""
        plan, clock = self.plan, self._clock
        if plan.role is Role.ENCODE:
            pool = toy_sight.geometry(blocks=plan.blocks)
            memory = bytearray(pool.region_bytes)
            self.engine, self._eye = toy_sight.encode_engine(pool, plan.limits, memoryview(memory), clock=clock)
        else:
            pool = toy_model.geometry(blocks=plan.blocks, block_tokens=plan.block_tokens)
            memory = bytearray(pool.region_bytes)
            fail = self._around.watcher.fail
            self.engine = toy_engine(pool, plan.limits, memoryview(memory), clock=clock, on_wrong_kv=fail)
        return pool, memory

    def _make_inlet(self) -> SimInlet:
        around = self._around
        inlet = SimInlet(
            around.network,
            self.process,
            boot=self.boot,
            blocks=self.plan.image_blocks,
            movers=around.movers,
            on_landing=self._on_landing,
            clock=self._clock,
            settings=self.plan.transfer,
        )
        around.pools[inlet.boot] = ReceivingStore(inlet.store)
        return inlet

    def _on_landing(self, target: VirtualMover, push: Push) -> None:
        self._around.watcher.on_landing(self._around.pools[target.boot], target.process.name, push)

    async def run(self) -> str:
        """Work until something kills the worker from inside; why."""
        self.shell.open()
        connect = connector(self._around.network, self.process)
        tasks = [
            *(asyncio.create_task(RouterLink(address, self._door, connect=connect).run(), name=f"link {address}")
              for address in self._around.routers),
            asyncio.create_task(self._renew(), name="lease-renewal"),
            asyncio.create_task(self.arrivals.reap_forever(), name="lease-reaper"),
            asyncio.create_task(self.prober.run(), name="prober"),
            *([] if self.inlet is None else self.inlet.start()),
        ]  # fmt: skip
        waited: list[asyncio.Future[None]] = [*tasks, self.shell.died]
        done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        return "; ".join(repr(ended.exception()) for ended in done)

    def leftovers(self) -> list[str]:
        """What this worker still holds for anybody.

        Not what a dead peer may still write by one-sided transports: nobody can say that it has
        stopped, so those blocks stay out of use, within the bound that restarts the worker.
        """
        counts = self.engine.blocks()
        doomed = [one for one in self.arrivals.quarantined if not self._around.movers[one.key[0]].process.is_alive]
        lost = {block for one in doomed for block in one.reservation.blocks}
        lost_bytes = sum(self.mover.granted_bytes(one.grant) for one in doomed)
        pool = counts.active + counts.held + counts.reserved - len(lost)
        found = {
            "live sequences": self.shell.live_sequences,
            "reservations": self.arrivals.leases - len(doomed),
            "handoffs": self.handoffs.open,
            "migrations": self.migrations.open,
            "engine sequences": len(list(self.engine.scheduler.sequences)),
            "engine reservations": len(list(self.engine.handover.block_tables)) - len(doomed),
            "blocks in use": pool,
            "pushes": len(self.mover.flights),
            "quarantined bytes": self.mover.quarantined_bytes - lost_bytes,
            "open grants": len(self.mover.open_grants),
            "looks": 0 if self.looks is None else self.looks.open,
        }
        if self.inlet is not None:
            found |= self.inlet.leftovers(lambda boot: self._around.movers[boot].process.is_alive)
        return [f"{self.process.name}: {number} {what}" for what, number in found.items() if number]

    def _links(self) -> tuple[LinkLoad, ...]:
        return self.prober.links(self.mover.stats.snapshot())

    def _open_transfers(self) -> list[Outbound]:
        return [
            *self.handoffs.open_transfers(),
            *self.migrations.open_transfers(),
            *self.prober.open_transfers(),
        ]

    async def _renew(self) -> None:
        await renew_forever(
            lambda: self.boot,
            self._open_transfers,
            lease_s=self.plan.transfer.lease_s,
        )

    def _steps(
        self,
        engine: Engine,  # noqa: ARG002 - it is ours
        *,
        on_change: Callable[[Engine, StepReport], None],
        on_death: Callable[[BaseException], None],
    ) -> VirtualSteps:
        def changed(engine: Engine, report: StepReport) -> None:
            self._around.watcher.on_step(self.boot, report)
            on_change(engine, report)

        return VirtualSteps(self.process, self.engine, step_s=self._around.step_s, on_change=changed, on_death=on_death)

    def _info(self) -> WorkerInfo:
        plan = self.plan
        return WorkerInfo(
            worker=WorkerId(plan.name),
            boot=self.boot,
            role=plan.role,
            model=FINGERPRINT,
            model_fingerprint=FINGERPRINT if self._eye is None else toy_sight.FINGERPRINT,
            image_fingerprint="" if self._eye is None else toy_sight.FINGERPRINT,
            kv_address=plan.name,
            block_tokens=self.engine.geometry.block_tokens,
            blocks=plan.blocks,
            sequence_tokens_max=plan.limits.sequence_tokens_max,
            batch_sequences_max=plan.limits.batch_sequences_max,
            device="virtual",
        )
