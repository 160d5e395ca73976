"""The gRPC front for people and operators: who is there, what runs, drain, flip, migrate.

Thin: asks the dispatcher and tells workers; evacuation and flows do the rest. Next: `evacuation.py`.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import grpc

from sluice.clock import Clock
from sluice.domain.ids import RequestId, WorkerId
from sluice.domain.role import Lifecycle, Role
from sluice.errors import InvalidRequestError, NoWorkerError, SluiceError
from sluice.router.capacity_rows import capacity_reply
from sluice.router.dispatcher import Dispatcher
from sluice.router.fleet import Member
from sluice.wire import convert, status
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc

REQUEST_ROWS_MAX: Final = 1000
WATCH_EVERY_S: Final = 0.1


class AdminService(sluice_pb2_grpc.AdminServicer):
    """The service `sluice get`, `explain`, `drain`, `flip` and `migrate` call."""

    def __init__(self, dispatcher: Dispatcher, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._clock = clock

    async def GetWorkers(  # noqa: N802 - gRPC's name
        self, _: pb.GetWorkersRequest, __: grpc.aio.ServicerContext[pb.GetWorkersRequest, pb.GetWorkersReply]
    ) -> pb.GetWorkersReply:
        """Every connected worker, with its latest heartbeat."""
        now_s = self._clock.now_s()
        rows = [
            pb.WorkerRow(
                info=convert.info_to_wire(member.info),
                load=convert.load_to_wire(member.load),
                heartbeat_age_s=now_s - member.heard_s,
            )
            for member in self._dispatcher.fleet
        ]
        return pb.GetWorkersReply(workers=rows)

    async def GetCapacity(  # noqa: N802 - gRPC's name
        self, _: pb.GetCapacityRequest, __: grpc.aio.ServicerContext[pb.GetCapacityRequest, pb.GetCapacityReply]
    ) -> pb.GetCapacityReply:
        """What the router has learned of its workers' speed."""
        return capacity_reply(self._dispatcher.fleet)

    async def Explain(  # noqa: N802 - gRPC's name
        self, message: pb.ExplainRequest, context: grpc.aio.ServicerContext[pb.ExplainRequest, pb.ExplainReply]
    ) -> pb.ExplainReply:
        """What was decided about a request, as far as it is remembered."""
        try:
            return self._explain(RequestId(message.request_id))
        except SluiceError as error:
            await context.abort(status.status_of(error), str(error))

    def _explain(self, request: RequestId) -> pb.ExplainReply:
        known = self._dispatcher.decisions.of(request)
        if known is None:
            remedy = "see `sluice get requests`, or ask the router that served it"
            raise InvalidRequestError(field="request_id", problem="is not remembered here", remedy=remedy)
        now_s = self._clock.now_s()
        records = self._dispatcher.records.latest(request=request, limit=REQUEST_ROWS_MAX)
        return pb.ExplainReply(
            policy=self._dispatcher.targets.policy_name,
            slo_class=known.slo_class,
            ttft_objective_s=known.ttft_s,
            tpot_objective_s=known.tpot_s,
            prompt_tokens=known.prompt_tokens,
            decisions=[decision.to_wire() for decision in known.decisions],
            requests=[record.to_wire(now_s=now_s) for record in sorted(records, key=lambda one: one.choice)],
        )

    async def GetRequests(  # noqa: N802 - gRPC's name
        self,
        message: pb.GetRequestsRequest,
        _: grpc.aio.ServicerContext[pb.GetRequestsRequest, pb.GetRequestsReply],
    ) -> pb.GetRequestsReply:
        """The latest sequences, newest first; `limit` 0 means as many as are answered at once."""
        limit = min(message.limit or REQUEST_ROWS_MAX, REQUEST_ROWS_MAX)
        wanted = RequestId(message.request_id) if message.request_id else None
        now_s = self._clock.now_s()
        records = self._dispatcher.records.latest(request=wanted, limit=limit)
        return pb.GetRequestsReply(requests=[record.to_wire(now_s=now_s) for record in records])

    async def Drain(  # noqa: N802 - gRPC's name
        self, message: pb.DrainRequest, context: grpc.aio.ServicerContext[pb.DrainRequest, pb.DrainEvent]
    ) -> AsyncIterator[pb.DrainEvent]:
        """Drain a worker and say what becomes of each request, until it is empty or gone."""
        try:
            member = self._member(message.worker)
            drain = pb.Drain(deadline_s=max(0.0, message.deadline_s), resume=message.resume)
            member.link.send(pb.RouterMessage(drain=drain))
            if message.resume:
                yield pb.DrainEvent(lifecycle=Lifecycle.READY.value)
                return
            async for event in self._watch(member):
                yield event
        except SluiceError as error:
            await context.abort(status.status_of(error), str(error))

    async def Flip(  # noqa: N802 - gRPC's name
        self, message: pb.FlipRequest, context: grpc.aio.ServicerContext[pb.FlipRequest, pb.FlipReply]
    ) -> pb.FlipReply:
        """Give a worker another role; drained first unless the new role admits all it may be running."""
        try:
            member = self._member(message.worker)
            role = _role(message.role)
            flip = self._dispatcher.flips.begin(
                member, role, deadline_s=max(0.0, message.deadline_s), why="asked for", now_s=self._clock.now_s()
            )
            await flip.over.wait()
            if flip.problem:
                raise NoWorkerError(f"worker {member.name}: {flip.problem}")
            return pb.FlipReply(worker=member.name, role=role.value)
        except SluiceError as error:
            await context.abort(status.status_of(error), str(error))

    async def Migrate(  # noqa: N802 - gRPC's name
        self, message: pb.MigrateRequest, context: grpc.aio.ServicerContext[pb.MigrateRequest, pb.MigrateReply]
    ) -> pb.MigrateReply:
        """Start moving one running sequence; GetRequests tells how it went."""
        try:
            return self._migrate(message)
        except SluiceError as error:
            await context.abort(status.status_of(error), str(error))

    def _migrate(self, message: pb.MigrateRequest) -> pb.MigrateReply:
        flow = self._dispatcher.find(RequestId(message.request_id), message.choice)
        if flow is None:
            remedy = "see `sluice get requests`"
            raise InvalidRequestError(field="request_id", problem="names no running request", remedy=remedy)
        source = flow.owner
        if source is None or not flow.can_move:
            remedy = "try again in a moment"
            raise InvalidRequestError(field="request_id", problem="is waiting or moving already", remedy=remedy)
        if message.recompute:
            flow.restart(why="asked for", now_s=self._clock.now_s())
            self._dispatcher.tick()
            return pb.MigrateReply(from_worker=source.name)
        target = self._member(message.to_worker) if message.to_worker else self._dispatcher.targets.elsewhere_for(flow)
        if target is None or target is source or not target.is_ready:
            remedy = "name another worker that is ready"
            raise InvalidRequestError(field="to_worker", problem="cannot take it", remedy=remedy)
        flow.move(target, why="asked for", now_s=self._clock.now_s())
        return pb.MigrateReply(from_worker=source.name, to_worker=target.name)

    def _member(self, worker: str) -> Member:
        member = self._dispatcher.fleet.find(WorkerId(worker))
        if member is None:
            known = ", ".join(sorted(member.name for member in self._dispatcher.fleet)) or "none"
            raise InvalidRequestError(
                field="worker", problem=f"'{worker}' is not connected", remedy=f"use one of: {known}"
            )
        return member

    async def _watch(self, member: Member) -> AsyncIterator[pb.DrainEvent]:
        """What changes about a draining worker, until it is drained or gone."""
        evacuation = self._dispatcher.evacuations.of(member)
        told = 0
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            is_gone = self._dispatcher.fleet.find(member.info.worker) is not member
            if not is_gone:
                self._dispatcher.evacuations.settle(evacuation)
            outcomes, told = evacuation.outcomes[told:], len(evacuation.outcomes)
            lifecycle = "gone" if is_gone else member.load.lifecycle.value
            yield pb.DrainEvent(lifecycle=lifecycle, left=len(member.sequences), outcomes=outcomes)
            if is_gone or member.load.lifecycle is Lifecycle.DRAINED:
                return


def _role(name: str) -> Role:
    try:
        return Role(name)
    except ValueError as error:
        remedy = f"use one of: {', '.join(role.value for role in Role)}"
        raise InvalidRequestError(field="role", problem=f"is '{name}'", remedy=remedy) from error
