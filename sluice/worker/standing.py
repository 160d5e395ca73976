"""What a worker says of itself: lifecycle, role, load, blocks; and how it leaves by draining.

    READY --drain--> DRAINING (admits nothing; routers move its sequences away) --empty--> DRAINED

Lives on the event loop. Decides nothing about sequences. Next: `lifecycle.py` for the table,
`shell.py`, which feeds this.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sluice.capacity.step_model import StepShape
from sluice.clock import Clock
from sluice.domain.load import LinkLoad, WorkerInfo, WorkerLoad
from sluice.domain.role import Lifecycle, Role
from sluice.engine.contract import BlockCounts
from sluice.telemetry.metrics import WorkerMetrics
from sluice.worker.lifecycle import Event, WorkerLife
from sluice.worker.step_samples import StepSamples


class Standing:
    """One worker's account of itself. `on_change` hears when routers should know at once."""

    def __init__(
        self,
        info: WorkerInfo,
        metrics: WorkerMetrics,
        clock: Clock,
        *,
        links: Callable[[], tuple[LinkLoad, ...]],
        on_change: Callable[[], None],
    ) -> None:
        self.info = info
        self.now_s = clock.now_s
        self.metrics = metrics
        self._life = WorkerLife()
        self._links = links
        self._on_change = on_change
        self._load = WorkerLoad(lifecycle=self._life.state)
        self._blocks: BlockCounts | None = None
        self._steps = StepSamples()
        self._drain_ends_s: float | None = None

    @property
    def lifecycle(self) -> Lifecycle:
        """Where the worker is in its life."""
        return self._life.state

    @property
    def admits_work(self) -> bool:
        """Whether new sequences and reservations are accepted."""
        return self._life.admits_work

    def open(self) -> None:
        """The model is loaded: admit work."""
        self._life.on(Event.LOADED)

    def close(self) -> None:
        """The process ends."""
        self._life.on(Event.STOP)

    def set_role(self, role: Role, *, instead_of: Role) -> None:
        """Take another role; routers send other work from now on.

        Whoever asks names the role it has seen. If that is not the present one, somebody else was faster, and
        nothing changes. Routers hear of the present role either way.
        """
        if self.info.role is instead_of:
            self.info = replace(self.info, role=role)
        self._on_change()

    def drain(self, *, deadline_s: float) -> None:
        """Admit nothing more. `deadline_s` 0: take as long as it takes. A drained worker stays so."""
        if self._life.state in {Lifecycle.READY, Lifecycle.DRAINING}:
            self._drain_ends_s = self.now_s() + deadline_s if deadline_s else None
            self._life.on(Event.DRAIN)
            self._on_change()

    @property
    def is_overdue(self) -> bool:
        """Whether it still drains though the deadline has passed."""
        ends_s = self._drain_ends_s
        return self._life.state is Lifecycle.DRAINING and ends_s is not None and self.now_s() >= ends_s - 1e-6

    def resume(self) -> None:
        """The drain is off, or over: admit work again."""
        if self._life.state in {Lifecycle.DRAINING, Lifecycle.DRAINED}:
            self._life.on(Event.UNDRAIN)
            self._on_change()

    def note_empty(self) -> None:
        """Nothing is left here: a draining worker is DRAINED, safe to stop."""
        if self._life.state is Lifecycle.DRAINING:
            self._life.on(Event.EMPTY)
            self._on_change()

    def note_load(self, load: WorkerLoad, blocks: BlockCounts | None) -> None:
        """What the engine says of itself after a step; blocks are not counted every time."""
        self._load = load
        self._blocks = blocks or self._blocks

    def note_step(self, shape: StepShape, seconds: float) -> None:
        """A step was measured: routers learn this worker's speed from a few of them."""
        self._steps.note(shape, seconds)

    def load(self, *, leases: int, unready: Sequence[str]) -> WorkerLoad:
        """The latest load, with what the engine cannot know filled in."""
        left_s = 0.0
        if self._life.state is Lifecycle.DRAINING and self._drain_ends_s is not None:
            left_s = max(1e-3, self._drain_ends_s - self.now_s())
        return replace(
            self._load,
            lifecycle=self._life.state,
            leases=leases,
            role=self.info.role,
            drain_left_s=left_s,
            links=self._links(),
            unready=tuple(unready),
            steps=self._steps.latest(),
        )

    def unready(self, *, routers: int, why: Sequence[str]) -> list[str]:
        """Why routers should not send work here, `why` included; empty when they may."""
        reasons = [*([] if self.admits_work else [f"worker is {self.lifecycle.value}"]), *why]
        return reasons if routers else [*reasons, "no router is connected"]

    def exposition(
        self,
        *,
        leases: int,
        orphans: int,
        quarantined_bytes: int,
        is_ready: bool,
        embeddings: BlockCounts | None = None,
    ) -> bytes:
        """The worker's metrics in Prometheus' format, gauges as of now; `embeddings` are of a store of them."""
        metrics = self.metrics
        if embeddings is not None:
            metrics.set_embedding_blocks(
                free=embeddings.free,
                cached=embeddings.cached,
                active=embeddings.active,
                held=embeddings.held,
                reserved=embeddings.reserved,
            )
        if (blocks := self._blocks) is not None:
            metrics.set_blocks(
                total=blocks.total,
                free=blocks.free,
                cached=blocks.cached,
                active=blocks.active,
                held=blocks.held,
                reserved=blocks.reserved,
            )
        metrics.leases.set(leases)
        metrics.orphans.set(orphans)
        metrics.quarantined_bytes.set(quarantined_bytes)
        metrics.running_sequences.set(self._load.running_sequences)
        metrics.waiting_sequences.set(self._load.waiting_sequences)
        metrics.ready.set(int(is_ready))
        return metrics.exposition()
