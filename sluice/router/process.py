"""One router process: puts the parts together, runs until told to stop, stops gracefully.

Stopping: readiness turns false, who comes all the same is served, running requests may finish
within a grace time, then everything is closed (`leaving.py`). The only file that knows all the others.
Next: `http_server.py`, `fleet_service.py`, `dispatcher.py`.
"""

import asyncio
import contextlib
import logging
import secrets
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from aiohttp import web

from sluice.clock import Clock, SystemClock
from sluice.config.router import RouterConfig
from sluice.domain.ids import RouterId
from sluice.errors import ConfigError
from sluice.policy.admission import AdmissionLimits
from sluice.policy.registry import compile_policy, make_policy
from sluice.policy.restraint import RestraintLimits
from sluice.router.admin_service import AdminService
from sluice.router.dispatch_limits import DispatchLimits
from sluice.router.dispatcher import Dispatcher
from sluice.router.door import HoldLimits
from sluice.router.fleet import Fleet
from sluice.router.fleet_service import FleetService
from sluice.router.gallery import Gallery
from sluice.router.http_server import HttpServer
from sluice.router.inference_service import InferenceService
from sluice.router.intake import Intake, IntakeLimits
from sluice.router.leaving import leave
from sluice.router.observer import Observer
from sluice.router.picture_reader import PictureReader
from sluice.router.slo_classes import SloClasses
from sluice.router.tending import TEND_S
from sluice.telemetry import logs, tracing
from sluice.telemetry.metrics import RouterMetrics
from sluice.text import tokenizer as tokenizers
from sluice.wire import channels
from sluice.wire.gen import sluice_pb2_grpc

TICK_S: Final = 0.25
LINK_GRACE_S: Final = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRouter:
    """A router that serves. The ports are the real ones, also when the settings say 0."""

    dispatcher: Dispatcher
    http_port: int
    grpc_port: int
    http: web.AppRunner


@contextlib.asynccontextmanager
async def serve(config: RouterConfig, *, clock: Clock) -> AsyncIterator[RunningRouter]:
    """Run a router until the block is left; what still runs then is cancelled.

    Raises ModelLoadError if the model's text side cannot be read, ConfigError if a port is in use.
    """
    directory = Path(config.model_path)
    tokenizer = tokenizers.load(directory)
    router = RouterId(f"router-{secrets.token_hex(4)}")
    fleet = Fleet(expiry_s=config.worker_expiry_s)
    compile_policy(config.placement.policy)
    model = _model_name(config)
    observer = Observer(
        RouterMetrics(queue_requests_max=config.admission.queue_requests_max, hold_s=config.admission.hold_s),
        model=model,
    )
    dispatcher = Dispatcher(
        router=router,
        tokenizer=tokenizer,
        fleet=fleet,
        policy=make_policy(config.placement.policy, split_tokens_min=config.placement.disaggregate_tokens_min),
        limits=_dispatch_limits(config),
        observer=observer,
        clock=clock,
    )
    limits = IntakeLimits(
        choices_max=config.choices_max,
        prompts_max=config.prompts_max,
        timeout_s=config.admission.request_timeout_s,
    )
    model = _model_name(config)
    reader = PictureReader(config.pictures)
    classes, gallery = (
        SloClasses(config.slo),
        Gallery(reader, dispatcher.desk, clock, held_bytes_max=config.pictures.held_bytes_max),
    )
    door = dispatcher.door
    intake = Intake(tokenizer, fleet, model=model, door=door, limits=limits, classes=classes, gallery=gallery)
    body_bytes_max = _body_bytes_max(config, sees=tokenizer.vision is not None)
    http = HttpServer(intake=intake, dispatcher=dispatcher, tokenizer=tokenizer, body_bytes_max=body_bytes_max)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(intake.close)
        stack.push_async_callback(reader.close)
        server = channels.make_server()
        _add_services(server, config, dispatcher=dispatcher, intake=intake, router=router, clock=clock)
        grpc_port = await _start_grpc(server, config)
        stack.push_async_callback(server.stop, LINK_GRACE_S)
        stack.callback(dispatcher.close, "the router is stopping")
        runner, http_port = await _start_http(http.application(), config, stack)
        ticker = asyncio.create_task(_tick(dispatcher), name="router tick")
        stack.callback(ticker.cancel)
        tender = asyncio.create_task(_tend(dispatcher), name="router tend")
        stack.callback(tender.cancel)
        _log.info("serving %s: http %s:%d, grpc %s:%d", model, config.host, http_port, config.host, grpc_port)
        yield RunningRouter(dispatcher=dispatcher, http_port=http_port, grpc_port=grpc_port, http=runner)


async def run(config: RouterConfig) -> None:
    """Serve until SIGTERM or SIGINT, then let running requests end. Raises what `serve` raises."""
    telemetry = config.telemetry
    logs.configure_logs(
        log_format=logs.LogFormat(telemetry.log_format), level=telemetry.log_level, service="sluice-router"
    )
    tracing.configure(
        exporter=tracing.Exporter(telemetry.traces), service="sluice-router", endpoint_or_path=telemetry.traces_to
    )
    try:
        await _run_until_stopped(config)
    finally:
        await asyncio.to_thread(tracing.shutdown)


async def _run_until_stopped(config: RouterConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(config, clock=SystemClock()) as router:
        await stop.wait()
        _log.info("stopping; %d sequences are running", router.dispatcher.sequences)
        assert router.http.server is not None
        await leave(router.dispatcher, router.http.server, grace_s=config.stop_grace_s)


def _body_bytes_max(config: RouterConfig, *, sees: bool) -> int:
    """What one HTTP request may have: where the model sees, its pictures in base64 too."""
    return config.body_bytes_max + (config.pictures.request_bytes_max * 4 // 3 if sees else 0)


def _model_name(config: RouterConfig) -> str:
    return config.model_name or Path(config.model_path).resolve().name


def _dispatch_limits(config: RouterConfig) -> DispatchLimits:
    admission = config.admission
    return DispatchLimits(
        admission=AdmissionLimits(
            queue_sequences_max=admission.queue_requests_max,
            queue_tokens_max=admission.queue_tokens_max,
            inflight_sequences_max=admission.inflight_sequences_max,
            queue_timeout_s=admission.queue_timeout_s,
        ),
        attempts_max=config.placement.attempts_max,
        unread_tokens_max=config.stream_buffer_tokens_max,
        records_max=config.records_max,
        hold=HoldLimits(hold_s=admission.hold_s, held_requests_max=admission.held_requests_max),
        ttft_s=config.slo.ttft_s,
        tpot_s=config.slo.tpot_s,
        restraint=RestraintLimits(moves_max=config.placement.moves_max, flips_max=config.placement.flips_max),
    )


def _add_services(
    server: grpc.aio.Server,
    config: RouterConfig,
    *,
    dispatcher: Dispatcher,
    intake: Intake,
    router: RouterId,
    clock: Clock,
) -> None:
    fleet = FleetService(dispatcher, router=router, heartbeat_s=config.heartbeat_s)
    sluice_pb2_grpc.add_FleetServicer_to_server(fleet, server)
    sluice_pb2_grpc.add_InferenceServicer_to_server(InferenceService(intake, dispatcher), server)
    sluice_pb2_grpc.add_AdminServicer_to_server(AdminService(dispatcher, clock), server)


async def _start_grpc(server: grpc.aio.Server, config: RouterConfig) -> int:
    try:
        port = server.add_insecure_port(f"{config.host}:{config.grpc_port}")
    except RuntimeError as error:
        raise ConfigError(f"grpc_port: {config.host}:{config.grpc_port} cannot be bound; choose a free port") from error
    await server.start()
    return port


async def _start_http(
    app: web.Application, config: RouterConfig, stack: contextlib.AsyncExitStack
) -> tuple[web.AppRunner, int]:
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, config.host, config.http_port)
    try:
        await site.start()
    except OSError as error:
        where = f"{config.host}:{config.http_port}"
        raise ConfigError(f"http_port: {where} cannot be bound ({error.strerror}); choose a free port") from error
    port: int = runner.addresses[0][1]
    return runner, port


async def _tick(dispatcher: Dispatcher) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        dispatcher.tick()


async def _tend(dispatcher: Dispatcher) -> None:
    while True:
        await asyncio.sleep(TEND_S)
        dispatcher.tend()
