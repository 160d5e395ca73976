"""Fleet.Join: workers dial in here, and one stream carries all that both sides say.

Owns the stream of each worker; what is said goes to the dispatcher, what the dispatcher says
comes from the worker's link. A worker that talks nonsense is disconnected with the reason.
Next: `dispatcher.py`.
"""

import asyncio
import logging
from typing import Final

import grpc

from sluice.domain.block_hash import HASH_UNIT_TOKENS
from sluice.domain.ids import RouterId
from sluice.domain.load import WorkerInfo
from sluice.domain.role import Role
from sluice.errors import IllegalTransitionError, InvalidRequestError, SluiceError
from sluice.router.dispatcher import Dispatcher
from sluice.router.fleet import Member
from sluice.router.worker_link import WorkerLink
from sluice.wire import convert, status
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc
from sluice.wire.version import WIRE_VERSION

REGISTER_TIMEOUT_S: Final = 10.0

_log = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[pb.WorkerMessage, pb.RouterMessage]


class FleetService(sluice_pb2_grpc.FleetServicer):
    """The service workers dial."""

    def __init__(self, dispatcher: Dispatcher, *, router: RouterId, heartbeat_s: float) -> None:
        self._dispatcher = dispatcher
        self._welcome = pb.Welcome(router=router, heartbeat_s=heartbeat_s, wire_version=WIRE_VERSION)

    async def Join(self, _: object, context: _Context) -> None:  # noqa: N802 - gRPC's name
        """One worker's stream, from Register to its end."""
        link = WorkerLink()
        try:
            member = self._dispatcher.join(await _register(context), link)
        except SluiceError as error:
            await context.abort(status.status_of(error), str(error))
        link.send(pb.RouterMessage(welcome=self._welcome))
        reader = asyncio.create_task(self._read_all(context, member), name=f"read {member.name}")
        writer = asyncio.create_task(link.write_all(context.write), name=f"write {member.name}")
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reader.cancel()
            writer.cancel()
            outcomes = await asyncio.gather(reader, writer, return_exceptions=True)
            self._dispatcher.lose(member, link.closed_because or "its stream ended")
        for outcome in outcomes:
            if isinstance(outcome, SluiceError):
                _log.warning("worker %s disconnected: %s", member.name, outcome)
                await context.abort(status.status_of(outcome), str(outcome))
            elif isinstance(outcome, Exception):
                _log.error("the stream of worker %s failed", member.name, exc_info=outcome)
                await context.abort(grpc.StatusCode.INTERNAL, "an internal error; see the router's log")
        if link.closed_because:
            await context.abort(grpc.StatusCode.UNAVAILABLE, link.closed_because)

    async def _read_all(self, context: _Context, member: Member) -> None:
        while True:
            message = await context.read()
            if not isinstance(message, pb.WorkerMessage):
                return  # the end of the stream
            try:
                self._dispatcher.on_message(member, message)
            except ValueError as error:  # an enum value of a newer version
                problem = f"from {member.name} is not understood ({error})"
                raise InvalidRequestError(field="message", problem=problem, remedy="use one version") from error
            except IllegalTransitionError:
                _log.exception("a message of worker %s met a sequence in the wrong state", member.name)


async def _register(context: _Context) -> WorkerInfo:
    """The first message. Raises InvalidRequestError if it is not a Register this router understands."""
    try:
        first = await asyncio.wait_for(context.read(), REGISTER_TIMEOUT_S)
    except TimeoutError as error:
        remedy = "send Register first"
        raise InvalidRequestError(field="register", problem="did not come", remedy=remedy) from error
    if not isinstance(first, pb.WorkerMessage) or first.WhichOneof("body") != "register":
        raise InvalidRequestError(field="register", problem="is missing", remedy="send Register first")
    register = first.register
    if register.wire_version != WIRE_VERSION:
        problem = f"is {register.wire_version}, the router's is {WIRE_VERSION}"
        raise InvalidRequestError(field="wire_version", problem=problem, remedy="run one version of Sluice")
    try:
        info = convert.info_from_wire(register)
    except ValueError as error:
        roles = ", ".join(role.value for role in Role)
        raise InvalidRequestError(field="role", problem=f"is '{register.role}'", remedy=f"use {roles}") from error
    _check(info)
    return info


def _check(info: WorkerInfo) -> None:
    """Numbers that placement divides by must be there."""
    if not info.worker or not info.boot:
        raise InvalidRequestError(field="worker", problem="or boot is empty", remedy="send both")
    if info.block_tokens <= 0 or info.block_tokens % HASH_UNIT_TOKENS:
        remedy = f"use a multiple of {HASH_UNIT_TOKENS}"
        raise InvalidRequestError(field="block_tokens", problem=f"is {info.block_tokens}", remedy=remedy)
    for field in ("blocks", "sequence_tokens_max", "batch_sequences_max"):
        if getattr(info, field) <= 0:
            raise InvalidRequestError(field=field, problem="is 0", remedy="send a positive number")
