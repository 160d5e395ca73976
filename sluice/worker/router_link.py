"""One worker's stream to one router: dial, register, say and hear everything on it, dial again.

Tokens, reports and heartbeats leave through one bounded queue, so their order is kept. A link
that falls behind is closed rather than left to grow: the router then places its requests anew.
Decides nothing about requests: `shell.py` does. Next: `shell.py`.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

import grpc

from sluice.domain.ids import RouterId
from sluice.wire import channels
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc
from sluice.wire.status import describe
from sluice.wire.version import WIRE_VERSION

log = logging.getLogger(__name__)

OUTBOX_MESSAGES_MAX: Final = 4096
RECONNECT_S_MIN: Final = 0.1
RECONNECT_S_MAX: Final = 2.0

JoinCall = grpc.aio.StreamStreamCall[pb.WorkerMessage, pb.RouterMessage]


class LinkOwner(Protocol):
    """Who answers for the worker on this link."""

    def registration(self) -> pb.Register: ...

    def heartbeat(self, link: "RouterLink") -> pb.Heartbeat: ...

    def prefixes(self) -> pb.PrefixUpdate: ...

    def on_joined(self, link: "RouterLink", router: RouterId) -> None: ...

    def on_message(self, link: "RouterLink", message: pb.RouterMessage) -> None: ...

    def on_lost(self, link: "RouterLink", router: RouterId) -> None: ...


class RouterLink:
    """The stream to the router at one address, kept up for as long as `run` runs."""

    def __init__(
        self,
        address: str,
        owner: LinkOwner,
        *,
        connect: Callable[[str], grpc.aio.Channel] = channels.connect,
    ) -> None:
        """`connect` makes a channel to host:port."""
        self.address = address
        self._connect = connect
        self._owner = owner
        self._outbox: asyncio.Queue[pb.WorkerMessage] = asyncio.Queue(OUTBOX_MESSAGES_MAX)
        self._call: JoinCall | None = None
        self.is_up = False  # whether a router has welcomed this worker and still listens
        self.heard = 0  # messages read on the present stream

    def send(self, message: pb.WorkerMessage) -> None:
        """Queue a message. A full queue ends the connection: the router is not reading."""
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("router %s does not read; closing the link", self.address)
            if self._call is not None:
                self._call.cancel()

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        delay_s = RECONNECT_S_MIN
        while True:
            try:
                if await self._serve_once():
                    delay_s = RECONNECT_S_MIN
            except grpc.RpcError as error:
                log.debug("router %s: %s", self.address, describe(error))
            except asyncio.InvalidStateError:  # what grpc.aio says of a write after the stream's end
                log.debug("router %s: the stream ended", self.address)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RECONNECT_S_MAX)

    async def _serve_once(self) -> bool:
        """One connection, from dial to loss; whether it was ever established."""
        self._outbox = asyncio.Queue(OUTBOX_MESSAGES_MAX)
        async with self._connect(self.address) as channel:
            call: JoinCall = rpc.FleetStub(channel).Join()
            self._call = call
            try:
                await call.write(pb.WorkerMessage(register=self._owner.registration()))
                first = await call.read()
                if not isinstance(first, pb.RouterMessage) or not first.HasField("welcome"):
                    return False
                if first.welcome.wire_version != WIRE_VERSION:
                    log.error("router %s speaks wire version %d, not %d: run equal versions of Sluice",
                              self.address, first.welcome.wire_version, WIRE_VERSION)  # fmt: skip
                    return False
                await self._serve(call, RouterId(first.welcome.router), heartbeat_s=first.welcome.heartbeat_s)
                return True
            finally:
                self._call = None
                call.cancel()

    async def _serve(self, call: JoinCall, router: RouterId, *, heartbeat_s: float) -> None:
        log.info("joined router %s at %s", router, self.address)
        self.heard = 1  # the Welcome
        self.send(pb.WorkerMessage(heartbeat=self._owner.heartbeat(self)))
        self.send(pb.WorkerMessage(prefix=self._owner.prefixes()))
        self._owner.on_joined(self, router)
        self.is_up = True
        tasks = [
            asyncio.create_task(self._write(call), name=f"link-write {self.address}"),
            asyncio.create_task(self._read(call), name=f"link-read {self.address}"),
            asyncio.create_task(self._beat(heartbeat_s), name=f"link-beat {self.address}"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.is_up = False
            log.info("lost router %s at %s", router, self.address)
            self._owner.on_lost(self, router)

    async def _write(self, call: JoinCall) -> None:
        while True:
            message = await self._outbox.get()
            try:
                await call.write(message)
            except (asyncio.InvalidStateError, grpc.aio.UsageError):
                return  # how grpc says that the stream has ended already; the reader hears why

    async def _read(self, call: JoinCall) -> None:
        while True:
            message = await call.read()
            if not isinstance(message, pb.RouterMessage):
                return
            self.heard += 1
            self._owner.on_message(self, message)

    async def _beat(self, heartbeat_s: float) -> None:
        while True:
            await asyncio.sleep(heartbeat_s)
            self.send(pb.WorkerMessage(heartbeat=self._owner.heartbeat(self)))
