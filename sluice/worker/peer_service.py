"""The KvPeer gRPC service: what other workers may ask of this one. Thin: arrivals decide.

gRPC cancels a handler when its caller dies, hangs up or stops waiting. What a caller has begun is
carried out whole all the same: half a reservation would be nobody's. Next: `decode_worker/arrivals.py`.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from sluice.errors import SluiceError
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc
from sluice.wire.status import status_of
from sluice.worker.stages import Arrivals

Reply = TypeVar("Reply")
Context: TypeAlias = grpc.aio.ServicerContext[Message, Message]


class PeerService(rpc.KvPeerServicer):
    """Answers peers; a named failure becomes its gRPC status."""

    def __init__(self, arrivals: Arrivals, hello: Callable[[], pb.PeerHello]) -> None:
        self._arrivals = arrivals
        self._hello = hello
        self._running: set[asyncio.Task[Any]] = set()

    async def Handshake(self, request: pb.PeerHello, context: Context) -> pb.PeerHello:  # noqa: ARG002, N802 - gRPC's signature
        self._arrivals.meet(request)
        return self._hello()

    async def Reserve(  # noqa: N802 - gRPC's name
        self, request: pb.ReserveRequest, context: Context
    ) -> pb.ReserveReply:
        try:
            return await self._see_through(self._arrivals.reserve(request))
        except SluiceError as error:
            await context.abort(status_of(error), str(error))

    async def Commit(  # noqa: N802 - gRPC's name
        self, request: pb.CommitRequest, context: Context
    ) -> pb.CommitReply:
        try:
            return await self._see_through(self._arrivals.commit(request))
        except SluiceError as error:
            await context.abort(status_of(error), str(error))

    async def Abandon(  # noqa: N802 - gRPC's name
        self,
        request: pb.AbandonRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> pb.AbandonReply:
        return await self._see_through(self._arrivals.abandon(request))

    async def RenewLeases(  # noqa: N802 - gRPC's name
        self,
        request: pb.RenewRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> pb.RenewReply:
        return await self._see_through(self._arrivals.renew(request))

    async def _see_through(self, work: Coroutine[Any, Any, Reply]) -> Reply:
        """Do `work` to its end, whether or not the caller still waits for it."""
        task = asyncio.create_task(work, name="peer's call")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)
