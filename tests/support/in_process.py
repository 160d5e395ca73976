"""A whole platform inside the test's own event loop: real router, real workers, real sockets, tiny models.

Workers run their engines on threads as they do in production; only the processes are missing.
Not for tests of crashes: `sluice.cli.local_fleet` starts real processes.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import openai

from sluice.cli import model_engine, vision_engine
from sluice.cli.built_engine import BuiltEngine
from sluice.cli.worker_process import WorkerProcess
from sluice.clock import SystemClock
from sluice.config.router import PicturesConfig, PlacementConfig, RouterConfig
from sluice.config.worker import EngineConfig, TransferConfig, WorkerConfig
from sluice.domain.ids import BootId
from sluice.engine.random_models import save_random_model
from sluice.kv_transfer.backends import open_backends
from sluice.kv_transfer.inproc_transport import InprocNetwork, InprocTransport
from sluice.kv_transfer.transport import Transport
from sluice.router.process import RunningRouter, serve
from sluice.router.worker_link import WorkerLink
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.wire import channels
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

READY_S_MAX = 30.0
VOCABULARY = 600


@dataclass(kw_only=True)
class WorkerPlan:
    """One worker of a test platform."""

    name: str
    role: str = "mixed"
    transports: tuple[str, ...] = ("shm", "tcp")
    block_tokens: int = 16
    kv_memory_mib: int = 4
    step_tokens_max: int = 128
    lease_s: float = 30.0
    copy_share: float = 1.0  # migrations as fast as they go: more of them in a short answer


@dataclass
class Platform:
    """A running router with its workers."""

    router: RunningRouter
    client: openai.AsyncOpenAI
    workers: dict[str, WorkerProcess] = field(default_factory=dict)
    built: dict[str, BuiltEngine] = field(default_factory=dict)
    stops: dict[str, asyncio.Event] = field(default_factory=dict)
    tasks: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    routers: list[RunningRouter] = field(default_factory=list)  # the first is `router`
    router_stacks: list[contextlib.AsyncExitStack] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.router.http_port}"

    async def complete(self, prompt: str | list[int], **settings: object) -> str:
        """The text of a greedy completion."""
        values = {"model": "tiny", "max_tokens": 12, "temperature": 0, **settings}
        reply = await self.client.completions.create(prompt=prompt, **values)
        return reply.choices[0].text

    def records(self) -> list[pb.RequestRow]:
        """The router's records, newest first."""
        now_s = SystemClock().now_s()
        records = self.router.dispatcher.records.latest(request=None, limit=1000)
        return [record.to_wire(now_s=now_s) for record in records]

    async def wait_quiet(self) -> None:
        """Until no worker holds a sequence, a reservation or a lease."""
        async with asyncio.timeout(READY_S_MAX):
            while any(not self.is_quiet(name) for name in self.workers):
                await asyncio.sleep(0.02)

    def now_s(self) -> float:
        """The router's clock."""
        return SystemClock().now_s()

    async def drain(self, worker: str, *, deadline_s: float) -> AsyncIterator[pb.DrainEvent]:
        """What `sluice drain` sees."""
        async with channels.connect(f"127.0.0.1:{self.router.grpc_port}") as channel:
            request = pb.DrainRequest(worker=worker, deadline_s=deadline_s)
            async for event in rpc.AdminStub(channel).Drain(request):
                yield event

    async def flip(self, worker: str, role: str) -> pb.FlipReply:
        """What `sluice flip` does."""
        async with channels.connect(f"127.0.0.1:{self.router.grpc_port}") as channel:
            return await rpc.AdminStub(channel).Flip(pb.FlipRequest(worker=worker, role=role, deadline_s=30.0))

    async def crash_router(self, number: int) -> None:
        """Its clients lose their streams at once, and its workers, a moment later, theirs, without a last word."""
        router = self.routers[number]
        for member in router.dispatcher.fleet:
            member.link = SilentLink()
        assert router.http.server is not None
        for connection in router.http.server.connections:
            assert connection.transport is not None
            connection.transport.abort()
        await self.router_stacks[number].aclose()

    def is_quiet(self, name: str) -> bool:
        worker = self.workers[name]
        blocks = self.built[name].engine.blocks()
        side = self.built[name].embeddings
        kept = None if side is None else side.store.blocks()
        return (
            worker.shell.live_sequences == 0
            and (kept is None or kept.free + kept.cached == kept.total)
            and worker.shell.load().leases == 0
            and blocks.free + blocks.cached == blocks.total
        )

    async def stop_worker(self, name: str) -> None:
        self.stops[name].set()
        await self.tasks.pop(name)
        del self.workers[name]


class SilentLink(WorkerLink):
    """What a dead router says."""

    def send(self, message: pb.RouterMessage) -> None:
        pass

    def close(self, reason: str) -> None:
        pass


class StartPlatform(Protocol):
    def __call__(
        self, plans: Sequence[WorkerPlan], *, routers: int = 1, router_grace_s: float = 30.0
    ) -> AbstractAsyncContextManager[Platform]: ...


def make_model(directory: Path) -> Path:
    """A random Llama with a small tokenizer; greedy answers are stable in float32."""
    make_model_directory(directory)
    save_random_model(directory, family="llama", vocab_size=VOCABULARY, max_position_embeddings=4096)
    return directory


@contextlib.asynccontextmanager
async def start(
    plans: Sequence[WorkerPlan],
    model_path: Path,
    *,
    routers: int = 1,
    router_grace_s: float = 30.0,
    held_bytes_max: int = 2**30,
) -> AsyncIterator[Platform]:
    """Routers and these workers; every prompt of 2 tokens or more is disaggregated if it can be."""
    config = RouterConfig(
        model_path=str(model_path),
        model_name="tiny",
        http_port=0,
        grpc_port=0,
        heartbeat_s=0.1,
        placement=PlacementConfig(disaggregate_tokens_min=2),
        pictures=PicturesConfig(held_bytes_max=held_bytes_max),
    )
    network = InprocNetwork()
    async with contextlib.AsyncExitStack() as stack:
        stacks = [await stack.enter_async_context(contextlib.AsyncExitStack()) for _ in range(routers)]
        running = [await one.enter_async_context(serve(config, clock=SystemClock())) for one in stacks]
        url = f"http://127.0.0.1:{running[0].http_port}/v1"
        client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)
        await stack.enter_async_context(client)
        platform = Platform(running[0], client, routers=running, router_stacks=stacks)
        for plan in plans:
            start_worker(platform, plan, model_path, network, router_grace_s=router_grace_s)
        try:
            await wait_joined(platform, len(plans))
            yield platform
        finally:
            for name in list(platform.workers):
                await platform.stop_worker(name)


def start_worker(
    platform: Platform, plan: WorkerPlan, model_path: Path, network: InprocNetwork, *, router_grace_s: float
) -> None:
    config = WorkerConfig(
        worker=plan.name,
        role=plan.role,  # type: ignore[arg-type]  # a test writes it as text
        model_path=str(model_path),
        model_name="tiny",
        routers=tuple(f"127.0.0.1:{router.grpc_port}" for router in platform.routers),
        router_grace_s=router_grace_s,
        engine=EngineConfig(
            threads=1,
            block_tokens=plan.block_tokens,
            kv_memory_mib=plan.kv_memory_mib,
            step_tokens_max=plan.step_tokens_max,
        ),
        transfer=TransferConfig(
            checksums="always",
            lease_s=plan.lease_s,
            copy_share=plan.copy_share,
            transports=tuple(name for name in plan.transports if name != "inproc"),  # type: ignore[arg-type]
        ),
    )
    boot = BootId(secrets.token_hex(4))
    built = (vision_engine if plan.role == "encode" else model_engine).build_engine(config)
    transports: tuple[Transport, ...]
    if plan.transports == ("inproc",):
        transports = (InprocTransport(network, boot=boot),)
    else:
        transports = open_backends(plan.transports, boot=boot, host="127.0.0.1").transports
    worker = WorkerProcess(config, built, boot=boot, transports=transports)
    stop = asyncio.Event()
    platform.workers[plan.name] = worker
    platform.built[plan.name] = built
    platform.stops[plan.name] = stop
    platform.tasks[plan.name] = asyncio.create_task(worker.run(stop), name=plan.name)


async def wait_joined(platform: Platform, count: int) -> None:
    async with asyncio.timeout(READY_S_MAX):
        while any(len([m for m in router.dispatcher.fleet if m.is_ready]) < count for router in platform.routers):
            for task in platform.tasks.values():
                if task.done():
                    task.result()
            await asyncio.sleep(0.02)
