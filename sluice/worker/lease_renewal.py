"""Keeps the reservations that peers hold for this worker alive: one message per peer and period.

Decides nothing: a lease that a peer calls lost is told to the transfer it belongs to.
Next: `outbound.py`.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

import grpc

from sluice.domain.ids import BootId
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.status import describe
from sluice.worker.outbound import Outbound
from sluice.worker.peers import Peer

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE: Final = 6
RENEW_TIMEOUT_S: Final = 5.0


async def renew_forever(
    own_boot: Callable[[], BootId], open_transfers: Callable[[], Iterable[Outbound]], *, lease_s: float
) -> None:
    """Renew what `open_transfers` lists, until cancelled. A peer that does not answer keeps no other one waiting."""
    asked: dict[BootId, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as group:
        while True:
            await asyncio.sleep(lease_s / RENEWALS_PER_LEASE)
            asked = {boot: task for boot, task in asked.items() if not task.done()}
            by_peer: dict[BootId, tuple[Peer, list[Outbound]]] = {}
            for outbound in open_transfers():
                if (peer := outbound.reserved_at) is not None and peer.boot not in asked:
                    by_peer.setdefault(peer.boot, (peer, []))[1].append(outbound)
            for boot, (peer, outbounds) in by_peer.items():
                asked[boot] = group.create_task(_renew(own_boot(), peer, outbounds), name=f"renew at {peer.worker}")


async def _renew(own_boot: BootId, peer: Peer, outbounds: Iterable[Outbound]) -> None:
    by_number = {outbound.transfer: outbound for outbound in outbounds}
    try:
        request = pb.RenewRequest(from_boot=own_boot, transfers=by_number)
        reply = await peer.stub.RenewLeases(request, timeout=RENEW_TIMEOUT_S)
    except grpc.RpcError as error:
        # Not a verdict: the lease may outlive a lost renewal, and commit finds out if it did not.
        log.warning("renewing leases at %s: %s", peer.worker, describe(error))
        return
    for transfer in reply.lost:
        if transfer in by_number:
            by_number[transfer].on_lease_lost()
