"""What gRPC's users see, over the simulated network: channels, calls, streams and server contexts.

`connect` stands in for `wire.channels.connect`; generated stubs and the real services run on it
unchanged. Answers as grpc.aio does: AioRpcError for what fails, EOF for what ends, a cancelled
handler for a client that is gone or has stopped waiting. Next: `network.py`.
"""

import asyncio
import functools
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, Protocol, Self, TypeAlias, cast

import grpc
from google.protobuf.message import Message

from sluice.testing.simulation.network import FLEET, PEER, RESET_S_MAX, Connection, Network
from sluice.testing.simulation.virtual_loop import Process
from sluice.wire.gen import sluice_pb2 as pb

Reply: TypeAlias = Message
Request: TypeAlias = Message
Parse: TypeAlias = Callable[[bytes], Message]

TICK_S: Final = 1e-6
"""Between two messages of a stream: timers of one moment run in any order."""

END: Final = object()
"""What a read gives at the end of a stream, as grpc.aio.EOF: anything but a message."""


def failure(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    """What grpc.aio raises."""
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details, debug_error_string=details
    )


def connector(network: Network, process: Process) -> Callable[[str], grpc.aio.Channel]:
    """How `process` dials others."""
    return lambda address: cast("grpc.aio.Channel", Channel(network, process, address))


class Handlers(Protocol):
    """A service: methods by their gRPC names."""

    def __getattr__(self, name: str) -> Callable[[Any, Any], Awaitable[Any]]: ...


class Channel:
    """A way to one address; closing it cancels what is open on it."""

    def __init__(self, network: Network, process: Process, address: str) -> None:
        self.network = network
        self.process = process
        self.address = address
        self._open: dict[UnaryCall | StreamCall, None] = {}
        self._is_closed = False

    def unary_unary(self, method: str, response_deserializer: Parse, **_: object) -> "Callable[..., Awaitable[Any]]":
        async def call(request: Request, timeout: float | None = None) -> Reply:  # noqa: ASYNC109 - gRPC's signature
            if self._is_closed:
                raise failure(grpc.StatusCode.CANCELLED, "the channel is closed")
            one = UnaryCall(self, method.rsplit("/", 1)[1], request, timeout)
            self._open[one] = None
            try:
                return response_deserializer(await one.answer)
            finally:
                one.hang_up()
                self._open.pop(one, None)

        return call

    def stream_stream(self, method: str, response_deserializer: Parse, **_: object) -> "Callable[[], StreamCall]":
        assert method.endswith("/Join"), "there is one stream in Sluice's wire between processes"

        def call() -> StreamCall:
            one = StreamCall(self, response_deserializer)
            self._open[one] = None
            return one

        return call

    def unary_stream(self, *_: object, **__: object) -> None:
        """Between processes nobody calls one."""

    async def close(self, grace: float | None = None) -> None:  # noqa: ARG002 - gRPC's signature
        self._is_closed = True
        for one in list(self._open):
            one.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class ServerContext:
    """What a unary handler may do besides returning."""

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        raise failure(code, details)


class UnaryCall:
    """One call: its request may be lost, carried out twice or late, and so may its reply."""

    def __init__(self, channel: Channel, method: str, request: Request, timeout_s: float | None) -> None:
        network, self._client = channel.network, channel.process
        self._network = network
        self._method = method
        self._handlers: list[asyncio.Task[None]] = []
        self.answer: asyncio.Future[bytes] = network.loop.create_future()
        self._connection: Connection | None = None
        found = network.find(channel.address, PEER)
        if timeout_s is not None:
            network.later(
                network.loop.time() + timeout_s, self._fail, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"
            )
        if not self._client.is_alive:
            self._fail(grpc.StatusCode.UNAVAILABLE, "this process has died")
        elif found is None:
            after_s = RESET_S_MAX * network.rng.random()
            network.later(network.loop.time() + after_s, self._fail, grpc.StatusCode.UNAVAILABLE, "connection refused")
        else:
            server, service = found
            self._connection = Connection((self._client, server), self._broken)
            network.connected(self._connection)
            packed = request.SerializeToString()
            copies = 1 + (network.rng.random() < network.weather.duplicate)
            for _ in range(copies):
                if network.rng.random() >= network.weather.lose_request:
                    at_s = network.arrival_s(self._client, server)
                    network.later(at_s, self._arrive, server, service, type(request).FromString(packed))

    def hang_up(self) -> None:
        """The caller waits no more: a handler that still runs is cancelled when that is known there."""
        if self._connection is not None:
            self._network.ended(self._connection)
            server = self._connection.ends[1]
            if any(not handler.done() for handler in self._handlers):
                self._network.later(self._network.arrival_s(self._client, server), self._cancel_handlers)

    def cancel(self) -> None:
        """The channel closes."""
        self._fail(grpc.StatusCode.CANCELLED, "the channel is closed")

    def _cancel_handlers(self) -> None:
        for handler in self._handlers:
            handler.cancel()

    def _arrive(self, server: Process, service: Handlers, request: Request) -> None:
        if server.is_alive and (not self.answer.done() or self._network.rng.random() < 0.5):
            work = self._handle(server, service, request)
            self._handlers.append(server.start(work, name=f"handle {self._method}"))

    async def _handle(self, server: Process, service: Handlers, request: Request) -> None:
        network = self._network
        try:
            reply = await getattr(service, self._method)(request, ServerContext())
            answer = functools.partial(self._reply, reply.SerializeToString())
        except grpc.aio.AioRpcError as error:
            answer = functools.partial(self._fail, error.code(), error.details() or "")
        if server.is_alive and network.rng.random() >= network.weather.lose_reply:
            network.later(network.arrival_s(server, self._client), answer)

    def _reply(self, packed: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(packed)

    def _fail(self, code: grpc.StatusCode, details: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(failure(code, details))
            self.answer.exception()  # the caller may be gone: nobody need retrieve it

    def _broken(self, end: Process, why: str) -> None:
        if end is self._client:
            self._fail(grpc.StatusCode.UNAVAILABLE, why)
        else:
            self._cancel_handlers()


class Mailbox:
    """What has arrived at one end of a stream, in order, and how the stream ended there."""

    def __init__(self, network: Network, owner: Process) -> None:
        self._network = network
        self._messages: deque[bytes] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._last_s = 0.0
        self._owner = owner
        self.end: Exception | None = None
        self.is_ended = False

    def post(self, sender: Process, packed: bytes) -> None:
        """Deliver behind everything posted before."""
        self._last_s = max(self._last_s + TICK_S, self._network.arrival_s(sender, self._owner))
        self._network.later(self._last_s, self._land, packed)

    def post_end(self, sender: Process, end: Exception | None) -> None:
        """The other end is done, after all it has said."""
        self._last_s = max(self._last_s + TICK_S, self._network.arrival_s(sender, self._owner))
        self._network.later(self._last_s, self.close, end)

    def close(self, end: Exception | None) -> None:
        """Nothing more will arrive."""
        if not self.is_ended:
            self.is_ended, self.end = True, end
            self._wake()

    async def take(self) -> bytes | None:
        """The next message; None at the end. Raises what broke the stream."""
        while True:
            if self._messages:
                return self._messages.popleft()
            if self.is_ended:
                if self.end is not None:
                    raise self.end
                return None
            self._waiting = self._network.loop.create_future()
            await self._waiting

    def _land(self, packed: bytes) -> None:
        if not self.is_ended:
            self._messages.append(packed)
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class StreamCall:
    """The worker's end of Fleet.Join."""

    def __init__(self, channel: Channel, parse: Parse) -> None:
        self._network = network = channel.network
        self._client = channel.process
        self._parse = parse
        self._inbox = Mailbox(network, self._client)
        self._server_inbox: Mailbox | None = None
        self._handler: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        found = network.find(channel.address, FLEET)
        if found is None or not self._client.is_alive:
            refused = failure(grpc.StatusCode.UNAVAILABLE, "connection refused")
            network.later(network.loop.time() + RESET_S_MAX * network.rng.random(), self._inbox.close, refused)
            return
        server, service = found
        self._server = server
        self._server_inbox = Mailbox(network, server)
        self._connection = Connection((self._client, server), self._broken)
        network.connected(self._connection)
        network.later(network.arrival_s(self._client, server), self._accept, service)

    async def write(self, message: Message) -> None:
        if self._inbox.is_ended or self._server_inbox is None:
            raise failure(grpc.StatusCode.UNAVAILABLE, "the stream is over")
        if self._client.is_alive:
            self._server_inbox.post(self._client, message.SerializeToString())

    async def read(self) -> object:
        packed = await self._inbox.take()
        return END if packed is None else self._parse(packed)

    def cancel(self) -> None:
        """Hang up; the router's handler is cancelled when it hears of it."""
        self._inbox.close(None)
        if self._connection is not None and self._client.is_alive:
            at_s = self._network.arrival_s(self._client, self._server)
            self._network.later(at_s, self._network.break_end, self._connection, self._server, "the client hung up")

    def _accept(self, service: Handlers) -> None:
        assert self._server_inbox is not None
        if not self._server.is_alive or self._inbox.is_ended:
            return
        context = StreamContext(self._network, self._server, self._server_inbox, self._inbox)
        self._handler = self._server.start(self._serve(service, context), name=f"join {self._client.name}")

    async def _serve(self, service: Handlers, context: "StreamContext") -> None:
        end: Exception | None = None
        try:
            await service.Join(None, context)
        except grpc.aio.AioRpcError as error:
            end = error
        if self._server.is_alive:
            self._inbox.post_end(self._server, end)

    def _broken(self, end: Process, why: str) -> None:
        if end is self._client:
            self._inbox.close(failure(grpc.StatusCode.UNAVAILABLE, why))
        elif self._handler is not None and self._network.rng.random() < 0.5:
            self._handler.cancel()
        elif self._server_inbox is not None:
            self._server_inbox.close(None)


class StreamContext(ServerContext):
    """The router's end of Fleet.Join."""

    def __init__(self, network: Network, server: Process, inbox: Mailbox, outbox: Mailbox) -> None:
        self._network = network
        self._server = server
        self._inbox = inbox
        self._outbox = outbox

    async def read(self) -> object:
        packed = await self._inbox.take()
        return END if packed is None else pb.WorkerMessage.FromString(packed)

    async def write(self, message: Message) -> None:
        if self._server.is_alive:
            self._outbox.post(self._server, message.SerializeToString())
