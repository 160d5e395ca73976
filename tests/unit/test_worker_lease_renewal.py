"""Leases are kept alive peer by peer: one that does not answer costs the others nothing."""

import asyncio
from types import SimpleNamespace
from typing import cast

from sluice.domain.ids import BootId
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.lease_renewal import renew_forever
from sluice.worker.outbound import Outbound

LEASE_S = 0.006


class Peer:
    """Answers renewals, or never does."""

    def __init__(self, name: str, *, is_dead: bool) -> None:
        self.worker = self.boot = name
        self.stub = SimpleNamespace(RenewLeases=self.answer)
        self.asked = 0
        self.is_well_known = asyncio.Event()
        self._is_dead = is_dead

    async def answer(self, request: pb.RenewRequest, *, timeout: float) -> pb.RenewReply:  # noqa: ASYNC109 - gRPC's
        self.asked += 1
        if self.asked == 3:
            self.is_well_known.set()
        if self._is_dead:
            await asyncio.Event().wait()
        return pb.RenewReply(lost=[request.transfers[0]] if self.asked == 3 else [])


class Transfer:
    """An open transfer with blocks reserved at a peer."""

    def __init__(self, transfer: int, peer: Peer) -> None:
        self.transfer = transfer
        self.reserved_at = peer
        self.is_lost = asyncio.Event()

    def on_lease_lost(self) -> None:
        self.is_lost.set()


async def test_a_peer_that_never_answers_keeps_no_other_lease_from_being_renewed() -> None:
    """It once did, for the five seconds of a call: leases of healthy peers ran out meanwhile."""
    dead, well = Peer("dead", is_dead=True), Peer("well", is_dead=False)
    transfers = [Transfer(1, dead), Transfer(2, well)]
    renewing = asyncio.create_task(
        renew_forever(lambda: BootId("us"), lambda: cast("list[Outbound]", transfers), lease_s=LEASE_S)
    )
    async with asyncio.timeout(10):
        await well.is_well_known.wait()
        await transfers[1].is_lost.wait()
    assert dead.asked == 1, "while an answer is awaited it is not asked again"
    assert not transfers[0].is_lost.is_set()
    renewing.cancel()
    await asyncio.wait({renewing})
