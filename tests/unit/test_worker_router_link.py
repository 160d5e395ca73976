"""A link outlives whatever way its stream ends."""

import asyncio
from types import TracebackType
from typing import Self

import pytest

from sluice.domain.ids import RouterId
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.version import WIRE_VERSION
from sluice.worker import router_link
from sluice.worker.router_link import RouterLink


class Owner:
    """A worker with nothing to say."""

    def __init__(self) -> None:
        self.joined = 0
        self.lost = 0

    def registration(self) -> pb.Register:
        return pb.Register(worker="w")

    def heartbeat(self, link: RouterLink) -> pb.Heartbeat:
        return pb.Heartbeat()

    def prefixes(self) -> pb.PrefixUpdate:
        return pb.PrefixUpdate()

    def on_joined(self, link: RouterLink, router: RouterId) -> None:
        self.joined += 1

    def on_message(self, link: RouterLink, message: pb.RouterMessage) -> None:
        """Nothing is asked of it."""

    def on_lost(self, link: RouterLink, router: RouterId) -> None:
        self.lost += 1


class EndedCall:
    """A stream that a router welcomed and that is over by the next write, as grpc.aio reports it."""

    def __init__(self) -> None:
        self._is_registered = False
        self._is_welcomed = False

    async def write(self, message: pb.WorkerMessage) -> None:
        if self._is_registered:
            problem = "RPC already finished."
            raise asyncio.InvalidStateError(problem)
        self._is_registered = True

    async def read(self) -> pb.RouterMessage:
        if self._is_welcomed:
            await asyncio.Event().wait()
        self._is_welcomed = True
        return pb.RouterMessage(welcome=pb.Welcome(router="r", heartbeat_s=60, wire_version=WIRE_VERSION))

    def cancel(self) -> None:
        """It is over already."""


class Channel:
    """Gives every caller a stream that ends at once."""

    def stream_stream(self, *_: object, **__: object) -> type[EndedCall]:
        return EndedCall

    def unary_stream(self, *_: object, **__: object) -> None:
        """Not called."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""


async def test_a_stream_that_ends_between_two_writes_is_dialled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_link, "RECONNECT_S_MIN", 0.001)
    owner = Owner()
    link = RouterLink("router:1", owner, connect=lambda _: Channel())  # type: ignore[arg-type, return-value]
    running = asyncio.create_task(link.run())
    while owner.lost < 2 and not running.done():
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert owner.joined >= owner.lost >= 2
