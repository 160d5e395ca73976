"""One transfer to one peer, as the sender does it: reserve, push, prove, commit, drop.

Shared by handoffs (`prefill_worker/outgoing.py`) and migrations (`decode_worker/moving.py`), which
decide when each of these happens. Owns the pushes; never decides what a failure means.
Next: `pushes.py`.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import grpc

from sluice.config.worker import TransferConfig
from sluice.domain.ids import BlockHash, BlockId, BootId, Epoch, SequenceId
from sluice.domain.kv import KvGeometry
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import Fence
from sluice.errors import ReservationRefusedError, TransferError
from sluice.kv_transfer import capability
from sluice.kv_transfer.checksum import crc32_of_source
from sluice.kv_transfer.mover_contract import KvMover
from sluice.kv_transfer.plan import Span, compile_plan, plan_bytes
from sluice.telemetry.metric_table import Direction
from sluice.telemetry.metrics import WorkerMetrics
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.peers import Peer, Peers
from sluice.worker.push_progress import PushProgress
from sluice.worker.pushes import Landing, Pushes, Source
from sluice.worker.shell import Shell

CALL_S_MAX: Final = 10.0
CHECKSUM_EVERY: Final = 256  # transfers, when checksums are sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all transfers of a worker share."""

    shell: Shell
    peers: Peers
    mover: KvMover
    view: memoryview | None  # this worker's KV region, for checksums; None when it is on a device
    settings: TransferConfig
    metrics: WorkerMetrics
    transfers: Iterator[int]
    pushes: Iterator[int]

    def suspect(self, boot: BootId) -> None:
        """Something that was sent to this peer failed."""
        self.shell.fabric.suspect(boot)

    @property
    def geometry(self) -> KvGeometry:
        """The shape of this worker's pool."""
        return self.shell.geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a reservation is asked for."""

    sequence: SequenceId
    epoch: Epoch
    tokens: int
    unit_hashes: tuple[BlockHash, ...]
    root: BlockHash
    is_canary: bool = False


class Outbound:
    """One attempt at one peer. `on_change` hears when a push ends or the lease is lost."""

    def __init__(
        self, around: Surroundings, *, parent: str, on_change: Callable[[], None], reserve_s_max: float = CALL_S_MAX
    ) -> None:
        self.transfer = next(around.transfers)
        self.reserved_at: Peer | None = None  # who holds blocks for us, as far as we know
        self.is_lease_lost = False
        self.transport = ""
        self.cached_tokens = 0
        self._around = around
        self._on_change = on_change
        self._reserve_s_max = reserve_s_max
        self._landing: Landing
        source = Source(
            worker=around.shell.info.worker,
            geometry=around.geometry,
            mover=around.mover,
            metrics=around.metrics,
            numbers=around.pushes,
        )
        self.pushes = Pushes(source, parent=parent, on_change=on_change)

    def on_lease_lost(self) -> None:
        """The peer has let the reservation go."""
        self.is_lease_lost = True
        self._on_change()

    async def reserve(self, target: pb.DecodeTarget, wanted: Wanted) -> None:
        """Meet the target and ask it for blocks.

        Raises ReservationRefusedError if it says no, other SluiceErrors or RpcError if it cannot be asked.
        """
        try:
            await self._reserve(target, wanted)
        except (TransferError, grpc.RpcError):
            self._around.suspect(BootId(target.boot))
            raise

    async def _reserve(self, target: pb.DecodeTarget, wanted: Wanted) -> None:
        peer = await self._around.peers.meet(target)
        self.reserved_at, self.transport = peer, peer.transport
        request = pb.ReserveRequest(
            from_boot=self._around.shell.info.boot,
            to_boot=peer.boot,
            transfer=self.transfer,
            sequence=wanted.sequence,
            epoch=wanted.epoch,
            tokens=wanted.tokens,
            unit_hashes=convert.hashes_to_wire(wanted.unit_hashes),
            root=wanted.root,
            canary=wanted.is_canary,
        )
        reply = await peer.stub.Reserve(request, timeout=self._reserve_s_max)
        if not reply.granted:
            self.reserved_at = None
            raise ReservationRefusedError(reply.refusal)
        self.cached_tokens = reply.cached_tokens
        blocks = tuple(BlockId(block) for block in reply.blocks)
        self._landing = Landing(peer, blocks, reply.cached_tokens, capability.bind(reply.grant, root=wanted.root))

    def push(self, progress: PushProgress, *, blocks: tuple[BlockId, ...], fence: Fence) -> None:
        """Start pushing whatever `progress` says can go."""
        theirs = self._landing.peer.geometry.block_tokens
        for stretch in progress.take(end_block_tokens=min(self._around.geometry.block_tokens, theirs)):
            self.pushes.start(self._landing, stretch, blocks=blocks, fence=fence)

    def failed_push(self) -> str:
        """Why a push failed, or "" if none has."""
        failed = self.pushes.collect(self._landing.peer)
        if failed is None:
            return ""
        self._around.suspect(self._landing.peer.boot)
        return f"push over {self.transport} failed: {failed.reason}"

    async def commit(
        self,
        state: SequenceState,
        *,
        blocks: tuple[BlockId, ...],
        computed: int,
        parked: bool,
        is_canary: bool = False,
    ) -> pb.CommitReply:
        """Tell the peer that the KV of the first `computed` tokens is there. Raises RpcError if no answer comes."""
        proofs, is_checksummed = await self._proofs(blocks, computed=computed, is_canary=is_canary)
        request = pb.CommitRequest(
            from_boot=self._around.shell.info.boot,
            transfer=self.transfer,
            state=convert.state_to_wire(state),
            proofs=proofs,
            checksummed=is_checksummed,
            transport=self.transport,
            computed=computed,
            parked=parked,
            canary=is_canary,
            grant=self._landing.grant,
        )
        reply: pb.CommitReply = await self._landing.peer.stub.Commit(request, timeout=CALL_S_MAX)
        if reply.attached:
            self._around.metrics.transferred(
                transport=self.transport,
                direction=Direction.SENT,
                moved_bytes=self.pushes.moved_bytes,
                seconds=self.pushes.seconds,
            )
        return reply

    async def drop(self, reason: str) -> None:
        """Tell the peer that we write no more, so that it need not wait for its lease to end."""
        peer, self.reserved_at = self.reserved_at, None
        if peer is None:
            return
        request = pb.AbandonRequest(
            from_boot=self._around.shell.info.boot, transfer=self.transfer, reason=reason, writes_stopped=True
        )
        await self._around.peers.bid_farewell(peer, request)

    async def _proofs(
        self, blocks: tuple[BlockId, ...], *, computed: int, is_canary: bool
    ) -> tuple[list[pb.GroupProof], bool]:
        """Per layer group, how many bytes were sent, and their CRC-32 if this transfer is checked."""
        view, mode = self._around.view, self._around.settings.checksums
        is_checked = is_canary or mode == "always" or (mode == "sampled" and self.transfer % CHECKSUM_EVERY == 1)
        source, target = self._around.geometry, self._landing.peer.geometry
        first = min(self.cached_tokens, computed)
        counts = [
            plan_bytes(source=source, target=target, group=group, tokens=computed - first)
            for group in range(source.groups)
        ]
        proofs = [pb.GroupProof(bytes=count) for count in counts]
        if not is_checked or view is None:
            return proofs, False
        span = Span(source_blocks=blocks, target_blocks=self._landing.blocks, first=first, end=computed)
        for group, proof in enumerate(proofs):
            plan = compile_plan(source=source, target=target, group=group, span=span)
            proof.crc32 = await asyncio.to_thread(crc32_of_source, view, plan)
        return proofs, True
