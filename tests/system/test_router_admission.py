"""Who goes first when not all can: classes, tenants and deadlines, as clients ask for them over HTTP and gRPC."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import aiohttp
import grpc
import pytest

from sluice.domain.role import Role
from sluice.testing.fake_fleet import FakeFleet, running_fleet
from sluice.testing.fake_worker import FakeSettings, FakeWorker
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def fleet(model: Path) -> AsyncIterator[FakeFleet]:
    """One worker that takes two requests at a time and does nothing until told to."""
    async with running_fleet(model, roles=()) as running:
        fake = await running.add(FakeSettings(worker="small", role=Role.MIXED, batch_sequences_max=1))
        fake.is_frozen = True
        yield running


class Crowd:
    """Requests that are sent one after the other; each is known by its prompt's length."""

    def __init__(self, fleet: FakeFleet) -> None:
        self.fleet = fleet
        self.asked: list[asyncio.Future[int]] = []

    @property
    def worker(self) -> FakeWorker:
        return self.fleet.workers["small"]

    async def send(self, length: int, *, tier: str = "", tenant: str = "") -> None:
        """Ask, and wait until the router has it."""
        before = self.fleet.router.dispatcher.sequences
        self.asked.append(asyncio.ensure_future(self.post(length, tier=tier, tenant=tenant)))
        await self.fleet.wait_until(lambda: self.fleet.router.dispatcher.sequences > before)

    def post(self, length: int, *, tier: str, tenant: str) -> Awaitable[int]:
        return post(self.fleet, length, tier=tier, tenant=tenant)

    async def fill(self) -> None:
        """The worker has all it takes: two requests."""
        for length in (1, 2):
            await self.send(length)
            await self.fleet.wait_until(lambda: len(self.worker.started) == len(self.asked))

    async def order(self) -> list[int]:
        """Let the worker work; in which order requests reached it."""
        self.worker.is_frozen = False
        assert set(await asyncio.gather(*self.asked)) == {200}
        return [state.prompt_tokens for state in self.worker.started]


class GrpcCrowd(Crowd):
    """The same over gRPC."""

    async def post(self, length: int, *, tier: str, tenant: str) -> int:
        async with grpc.aio.insecure_channel(self.fleet.grpc_address) as channel:
            request = pb.GenerateRequest(
                model="fake",
                prompt_tokens=pb.TokenIds(ids=range(50, 50 + length)),
                sampling=pb.SamplingParams(max_tokens=3),
                service_tier=tier,
                tenant=tenant,
            )
            async for _ in rpc.InferenceStub(channel).Generate(request):
                pass
        return 200


async def post(fleet: FakeFleet, length: int, *, tier: str = "", tenant: str = "", within: str = "") -> int:
    body = {"model": "fake", "prompt": [*range(50, 50 + length)], "max_tokens": 3}
    headers = {"x-sluice-tenant": tenant} | ({"x-sluice-timeout-s": within} if within else {})
    if tier:
        body["service_tier"] = tier
    url = f"{fleet.url}/v1/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as reply:
        await reply.read()
        return reply.status


@pytest.fixture(params=[Crowd, GrpcCrowd])
def crowd(fleet: FakeFleet, request: pytest.FixtureRequest) -> Crowd:
    made: Crowd = request.param(fleet)
    return made


async def test_urgent_requests_overtake_those_that_wait(crowd: Crowd) -> None:
    await crowd.fill()
    for length, tier in ((3, "flex"), (4, "batch"), (5, "standard"), (6, "priority")):
        await crowd.send(length, tier=tier)
    assert await crowd.order() == [1, 2, 6, 5, 3, 4]


async def test_a_tenant_that_sends_much_does_not_delay_one_that_sends_little(crowd: Crowd) -> None:
    await crowd.fill()
    for length in (30, 31, 32, 33):
        await crowd.send(length, tenant="much")
    await crowd.send(20, tenant="little")
    await crowd.send(21, tenant="little")
    assert await crowd.order() == [1, 2, 30, 20, 21, 31, 32, 33]


async def test_a_deadline_ends_a_request_wherever_it_is(fleet: FakeFleet) -> None:
    assert await post(fleet, 5, within="0.05") == 504
    assert fleet.router.dispatcher.sequences == 0
    worker = fleet.workers["small"]
    await fleet.wait_until(lambda: not worker.running)
    assert await post(fleet, 5, within="soon") == 400
    assert await post(fleet, 5, within="-1") == 400


async def test_a_tier_nobody_has_is_named(fleet: FakeFleet) -> None:
    assert await post(fleet, 5, tier="platinum") == 400
