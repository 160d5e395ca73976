"""The pushes of one transfer: started, collected, counted, traced. Decides nothing.

Next: `outbound.py`, the whole of one transfer.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sluice import clock
from sluice.domain.ids import BlockId, WorkerId
from sluice.domain.kv import KvGeometry
from sluice.engine.contract import Fence
from sluice.kv_transfer.mover_contract import KvMover
from sluice.kv_transfer.plan import Span, compile_plan
from sluice.kv_transfer.transport import Push, PushResult, PushState
from sluice.telemetry import attributes, tracing
from sluice.telemetry.metric_table import Direction
from sluice.telemetry.metrics import WorkerMetrics
from sluice.worker.peers import Peer
from sluice.worker.push_progress import Stretch


@dataclass(frozen=True, slots=True)
class Landing:
    """Where the KV goes: the peer and what it reserved."""

    peer: Peer
    blocks: tuple[BlockId, ...]
    cached_tokens: int
    grant: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the KV comes from, and who moves and counts it."""

    worker: WorkerId
    geometry: KvGeometry
    mover: KvMover
    metrics: WorkerMetrics
    numbers: Iterator[int]


class Pushes:
    """Everything in flight from one sequence's blocks; `on_change` hears when a push ends."""

    def __init__(self, source: Source, *, parent: str, on_change: Callable[[], None]) -> None:
        self.moved_bytes = 0
        self.seconds = 0.0
        self._source = source
        self._parent = parent
        self._on_change = on_change
        self._in_flight: dict[int, asyncio.Future[PushResult]] = {}

    def __bool__(self) -> bool:
        return bool(self._in_flight)

    def start(self, landing: Landing, stretch: Stretch, *, blocks: tuple[BlockId, ...], fence: Fence) -> None:
        """Push one stretch of a layer group as soon as `fence` has passed."""
        span = Span(source_blocks=blocks, target_blocks=landing.blocks, first=stretch.first, end=stretch.end)
        ranges = compile_plan(
            source=self._source.geometry, target=landing.peer.geometry, group=stretch.group, span=span
        )
        number = next(self._source.numbers)
        push = Push(push=number, peer=landing.peer.boot, grant=landing.grant, descriptors=ranges)
        started_ns = clock.wall_ns()
        future = asyncio.wrap_future(self._source.mover.push(push, fence))
        future.add_done_callback(lambda _: self._on_change())
        if self._parent:
            moved = ranges.total_bytes
            future.add_done_callback(lambda done: self._trace(landing.peer, stretch.group, moved, started_ns, done))
        self._in_flight[number] = future
        self.moved_bytes += ranges.total_bytes

    def collect(self, peer: Peer) -> PushResult | None:
        """Take finished pushes off the list; returns the first failed one, if any."""
        for number in [number for number, future in self._in_flight.items() if future.done()]:
            result = self._in_flight.pop(number).result()
            if result.state is PushState.FAILED:
                self._source.metrics.transfer_failed(transport=peer.transport, direction=Direction.SENT)
                return result
            self.seconds += result.seconds
        return None

    def abandon(self) -> None:
        """Stop caring for what is in flight; it still has to end."""
        for number in self._in_flight:
            self._source.mover.abandon(number)

    async def wait_ended(self) -> None:
        """Until nothing in flight can read our blocks or write the peer's."""
        if self._in_flight:
            await asyncio.wait(self._in_flight.values())
        self._in_flight.clear()

    def _trace(
        self, peer: Peer, group: int, moved_bytes: int, started_ns: int, done: "asyncio.Future[PushResult]"
    ) -> None:
        if done.cancelled():
            return
        result = done.result()
        speed = moved_bytes / result.seconds / 1e9 if result.seconds else 0.0
        tracing.record_span(
            attributes.SpanName.TRANSFER,
            parent=self._parent,
            start_ns=started_ns,
            end_ns=clock.wall_ns(),
            attributes={
                attributes.WORKER: self._source.worker,
                attributes.DECODE_WORKER: peer.worker,
                attributes.LAYER_GROUP: group,
                attributes.TRANSPORT: peer.transport,
                attributes.TRANSFER_BYTES: moved_bytes,
                attributes.TRANSFER_GB_PER_S: round(speed, 3),
            },
            error=None if result.state is PushState.DONE else "transfer",
        )
