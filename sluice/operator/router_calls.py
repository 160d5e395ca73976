"""The Routers of real services: gRPC Admin for workers, `/metrics` for counts. No decision, no state but connections.

A router that does not answer in time is left out: the next look asks it again. Next: `routers.py`
for what the values mean.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import aiohttp
import grpc
from prometheus_client.parser import text_string_to_metric_families

from sluice.domain.role import Role
from sluice.errors import NoWorkerError
from sluice.operator import names
from sluice.operator.routers import RouterReport, Traffic, WorkerView
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

log = logging.getLogger(__name__)

CALL_S_MAX: Final = 3.0
FLIP_S_MAX: Final = 15.0

COUNTS: Final = {
    "sluice_queue_requests": "queued",
    "sluice_inflight_requests": "inflight",
    "sluice_held_requests": "held",
    "sluice_requests_total": "ended",
    "sluice_goodput_requests_total": "good",
    "sluice_output_tokens_total": "output_tokens",
}
"""Counted under every label."""
LABELLED: Final = {
    ("sluice_slo_misses_total", "objective", "ttft"): "ttft_misses",
    ("sluice_slo_misses_total", "objective", "tpot"): "tpot_misses",
    ("sluice_migrations_total", "outcome", "moved"): "moved",
}
"""Counted under one."""


class RouterCalls:
    """Calls over the pods' own addresses. The caller closes it."""

    def __init__(self) -> None:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_S_MAX))

    async def close(self) -> None:
        """End the connections."""
        await self._http.close()

    async def look(self, addresses: Sequence[str]) -> RouterReport:
        """See Routers. A worker that several routers know is told once, by the first that answers."""
        answers = await asyncio.gather(*(self._look(address) for address in addresses))
        told = [answer for answer in answers if answer is not None]
        workers: dict[str, WorkerView] = {}
        for views, _ in told:
            for view in views:
                workers.setdefault(view.worker, view)
        if not told:
            return RouterReport()
        return RouterReport(workers=tuple(workers.values()), traffic=_sum([traffic for _, traffic in told]))

    async def drain(self, worker: WorkerView, *, deadline_s: float) -> None:
        """See Routers."""
        await self._start_drain(worker, pb.DrainRequest(worker=worker.worker, deadline_s=deadline_s))

    async def resume(self, worker: WorkerView) -> None:
        """See Routers."""
        await self._start_drain(worker, pb.DrainRequest(worker=worker.worker, resume=True))

    async def flip(self, worker: WorkerView, role: Role) -> None:
        """See Routers."""
        request = pb.FlipRequest(worker=worker.worker, role=role.value)
        try:
            async with grpc.aio.insecure_channel(_grpc(worker.router)) as channel:
                await rpc.AdminStub(channel).Flip(request, timeout=FLIP_S_MAX)
        except grpc.aio.AioRpcError as error:
            raise NoWorkerError(f"{worker.worker} did not become {role.value}: {error.details()}") from error

    async def _start_drain(self, worker: WorkerView, request: pb.DrainRequest) -> None:
        """The first event says that the worker has been told; the worker goes on by itself."""
        try:
            async with grpc.aio.insecure_channel(_grpc(worker.router)) as channel:
                call = rpc.AdminStub(channel).Drain(request, timeout=CALL_S_MAX)
                async for _ in call:
                    break
                call.cancel()
        except grpc.aio.AioRpcError as error:
            raise NoWorkerError(f"{worker.worker} was not told to drain: {error.details()}") from error

    async def _look(self, address: str) -> tuple[list[WorkerView], Traffic] | None:
        try:
            async with grpc.aio.insecure_channel(_grpc(address)) as channel:
                reply = await rpc.AdminStub(channel).GetWorkers(pb.GetWorkersRequest(), timeout=CALL_S_MAX)
            async with self._http.get(f"http://{_host(address)}:{names.PORT_HTTP}/metrics") as answer:
                text = await answer.text()
            return [_worker(row, address) for row in reply.workers], traffic(text)
        except (grpc.aio.AioRpcError, aiohttp.ClientError, TimeoutError) as error:
            log.info("router %s does not answer: %s", address, type(error).__name__)
        except ValueError as error:  # a role or state of another version
            log.warning("router %s is not understood: %s", address, error)
        return None


def traffic(exposition: str) -> Traffic:
    """A router's counts from its `/metrics`."""
    counts = dict.fromkeys((*COUNTS.values(), *LABELLED.values()), 0)
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            keys = [LABELLED.get((sample.name, label, value)) for label, value in sample.labels.items()]
            for key in (COUNTS.get(sample.name), *keys):
                if key is not None:
                    counts[key] += round(sample.value)
    return Traffic(**counts)


def _sum(parts: Sequence[Traffic]) -> Traffic:
    fields = Traffic.__dataclass_fields__
    return Traffic(**{field: sum(getattr(part, field) for part in parts) for field in fields})


def _worker(row: pb.WorkerRow, address: str) -> WorkerView:
    return WorkerView(router=address, info=convert.info_from_wire(row.info), load=convert.load_from_wire(row.load))


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _grpc(address: str) -> str:
    return f"{_host(address)}:{names.PORT_GRPC}"
