"""Other workers as this one knows them: who they are, whether KV can flow, over what.

A peer is one incarnation (boot id): a restarted worker is met anew. Meeting means a handshake
over gRPC, the compatibility check, and a connected transport; it happens once per incarnation,
and concurrent callers share it. Next: `prefill_worker/handoffs.py`.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import grpc

from sluice.domain.ids import BootId, WorkerId
from sluice.domain.kv import KvGeometry
from sluice.errors import IncompatiblePeerError, TransferError
from sluice.kv_transfer.fingerprint import KvIdentity, require_compatible
from sluice.kv_transfer.mover_contract import KvMover
from sluice.kv_transfer.transport import PeerInfo
from sluice.wire import channels, convert
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc
from sluice.wire.status import describe
from sluice.wire.version import WIRE_VERSION
from sluice.worker.canary import Canary

log = logging.getLogger(__name__)

HANDSHAKE_S_MAX: Final = 5.0
PEERS_MAX: Final = 1024
FAREWELL_S_MAX: Final = 5.0
FAREWELL_ANSWER_S: Final = 1.0
FAREWELL_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A worker that KV can be pushed to, over `transport`."""

    worker: WorkerId
    boot: BootId
    geometry: KvGeometry
    transport: str
    channel: grpc.aio.Channel
    stub: rpc.KvPeerStub


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSide:
    """What this worker says of itself in a handshake."""

    worker: WorkerId
    boot: BootId
    identity: KvIdentity
    canary: Canary | None = None  # for workers that compute with what they are sent

    @property
    def canary_tokens(self) -> Sequence[int]:
        """What peers are to choose as well, after the same prompt."""
        return () if self.canary is None else self.canary.tokens

    def hello(self, mover: KvMover) -> pb.PeerHello:
        """The message peers need before they can push here."""
        return convert.hello_to_wire(
            worker=self.worker,
            boot=self.boot,
            model_fingerprint=self.identity.model_fingerprint,
            geometry=self.identity.geometry,
            region_bytes=self.identity.region_bytes,
            infos=mover.local_infos(),
            canary=self.canary_tokens,
        )


class Peers:
    """Every peer met so far."""

    def __init__(
        self, own: OwnSide, mover: KvMover, *, connect: Callable[[str], grpc.aio.Channel] = channels.connect
    ) -> None:
        """`connect` makes a channel to host:port."""
        self._own = own
        self._connect = connect
        self._mover = mover
        self._met: dict[BootId, asyncio.Task[Peer]] = {}
        self._farewells: set[asyncio.Task[None]] = set()

    async def meet(self, target: pb.DecodeTarget) -> Peer:
        """The peer at `target`, met now if need be. Raises TransferError or IncompatiblePeerError."""
        boot = BootId(target.boot)
        meeting = self._met.get(boot)
        if meeting is None or (meeting.done() and (meeting.cancelled() or meeting.exception() is not None)):
            if len(self._met) >= PEERS_MAX:
                await self.forget(next(iter(self._met)))
            meeting = asyncio.create_task(self._meet(target), name=f"meet {target.worker}")
            self._met[boot] = meeting
        try:
            return await asyncio.shield(meeting)
        except asyncio.CancelledError:
            asker = asyncio.current_task()
            if asker is not None and asker.cancelling():
                raise
            # Somebody else's failure ended the meeting we waited for: that is not our own end.
            raise TransferError(f"worker {target.worker} was given up while it was being met") from None

    async def forget(self, boot: BootId) -> None:
        """Drop what is known of an incarnation: it failed, or is gone. The next use meets it anew."""
        meeting = self._met.pop(boot, None)
        if meeting is None:
            return
        meeting.cancel()
        outcome = (await asyncio.gather(meeting, return_exceptions=True))[0]
        if isinstance(outcome, Peer):
            self._mover.disconnect(boot)
            await outcome.channel.close(None)

    async def bid_farewell(self, peer: Peer, request: pb.AbandonRequest) -> None:
        """Tell a peer that nothing of ours writes into what it holds for us, so that it can use the blocks again.

        Where writes are one-sided nobody else can tell it. Returns when it has heard, or soon: then
        it is told again and again, for a minute, and forgotten if it never answers.
        """
        task = asyncio.create_task(self._tell(peer, request), name=f"farewell to {peer.worker}")
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)
        await asyncio.wait({task}, timeout=FAREWELL_ANSWER_S)

    async def close(self) -> None:
        """Say what is left to say, and forget everyone."""
        if self._farewells:
            await asyncio.wait(self._farewells, timeout=FAREWELL_ANSWER_S)
        for task in list(self._farewells):
            task.cancel()
        for boot in list(self._met):
            await self.forget(boot)

    async def _tell(self, peer: Peer, request: pb.AbandonRequest) -> None:
        for pause_s in FAREWELL_PAUSES_S:
            try:
                await peer.stub.Abandon(request, timeout=FAREWELL_S_MAX)
                return
            except (grpc.RpcError, grpc.aio.UsageError) as error:
                why = describe(error) if isinstance(error, grpc.RpcError) else str(error)
                log.info("could not tell %s that transfer %d is over: %s", peer.worker, request.transfer, why)
            await asyncio.sleep(pause_s)
        await self.forget(peer.boot)

    async def _meet(self, target: pb.DecodeTarget) -> Peer:
        channel = self._connect(target.kv_address)
        try:
            stub = rpc.KvPeerStub(channel)
            hello = await stub.Handshake(self._own.hello(self._mover), timeout=HANDSHAKE_S_MAX)
            check_incarnation(hello, target)
            geometry = convert.geometry_from_wire(hello.geometry)
            theirs = KvIdentity(
                model_fingerprint=hello.model_fingerprint,
                wire_version=hello.wire_version,
                geometry=geometry,
                region_bytes=hello.region_bytes,
            )
            require_compatible(self._own.identity, theirs)
            check_canary(hello, self._own.canary_tokens)
            info = PeerInfo(
                worker=WorkerId(hello.worker),
                boot=BootId(hello.boot),
                region_bytes=hello.region_bytes,
                infos=tuple((entry.name, entry.info) for entry in hello.transports),
            )
            transport = await asyncio.wrap_future(self._mover.connect(info))
        except grpc.RpcError as error:
            await channel.close(None)
            raise TransferError(f"worker {target.worker} at {target.kv_address}: {describe(error)}") from error
        except BaseException:
            await channel.close(None)
            raise
        log.info("met %s (%s): KV goes over %s", hello.worker, hello.boot, transport)
        return Peer(
            worker=WorkerId(hello.worker),
            boot=BootId(hello.boot),
            geometry=geometry,
            transport=transport,
            channel=channel,
            stub=stub,
        )


def check_incarnation(hello: pb.PeerHello, target: pb.DecodeTarget) -> None:
    """Raise TransferError if somebody else answers at the address."""
    if hello.boot != target.boot:
        raise TransferError(f"worker {target.worker} has restarted; its new incarnation must be placed anew")


def check_canary(hello: pb.PeerHello, ours: Sequence[int]) -> None:
    """Raise IncompatiblePeerError if its engine answers the canary otherwise than ours. Unknown answers pass."""
    theirs = tuple(hello.canary)
    if theirs and ours and theirs != tuple(ours):
        raise IncompatiblePeerError(
            f"canary: {hello.worker} answers {theirs}, this worker {tuple(ours)} to the same prompt;"
            " one of the two computes wrongly: replace the one that other workers disagree with, too"
        )


def own_identity(*, model_fingerprint: str, geometry: KvGeometry) -> KvIdentity:
    """What this worker's KV is, for handshakes."""
    return KvIdentity(
        model_fingerprint=model_fingerprint,
        wire_version=WIRE_VERSION,
        geometry=geometry,
        region_bytes=geometry.region_bytes,
    )
