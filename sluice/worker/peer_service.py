"""The KvPeer gRPC service: what other workers may ask of this one. Thin: arrivals decide.

Next: `decode_worker/arrivals.py`.
"""

from collections.abc import Callable
from typing import TypeAlias

import grpc
from google.protobuf.message import Message

from sluice.errors import SluiceError
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc
from sluice.wire.status import status_of
from sluice.worker.stages import Arrivals

Context: TypeAlias = grpc.aio.ServicerContext[Message, Message]


class PeerService(rpc.KvPeerServicer):
    """Answers peers; a named failure becomes its gRPC status."""

    def __init__(self, arrivals: Arrivals, hello: Callable[[], pb.PeerHello]) -> None:
        self._arrivals = arrivals
        self._hello = hello

    async def Handshake(self, request: pb.PeerHello, context: Context) -> pb.PeerHello:  # noqa: ARG002, N802 - gRPC's signature
        self._arrivals.meet(request)
        return self._hello()

    async def Reserve(  # noqa: N802 - gRPC's name
        self, request: pb.ReserveRequest, context: Context
    ) -> pb.ReserveReply:
        try:
            return await self._arrivals.reserve(request)
        except SluiceError as error:
            await context.abort(status_of(error), str(error))

    async def Commit(  # noqa: N802 - gRPC's name
        self, request: pb.CommitRequest, context: Context
    ) -> pb.CommitReply:
        try:
            return await self._arrivals.commit(request)
        except SluiceError as error:
            await context.abort(status_of(error), str(error))

    async def Abandon(  # noqa: N802 - gRPC's name
        self,
        request: pb.AbandonRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> pb.AbandonReply:
        return await self._arrivals.abandon(request)

    async def RenewLeases(  # noqa: N802 - gRPC's name
        self,
        request: pb.RenewRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> pb.RenewReply:
        return await self._arrivals.renew(request)
