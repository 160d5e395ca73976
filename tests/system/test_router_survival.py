"""Workers crash, clients leave: texts stay whole, and nothing is left behind."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import openai
import orjson
import pytest

from sluice.config.router import AdmissionConfig
from sluice.domain.role import Role
from sluice.testing.fake_fleet import FakeFleet, running_fleet
from sluice.testing.fake_worker import FakeSettings
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.wire.gen import sluice_pb2 as pb

LONG = "A river finds the sea by many small decisions, and every lock keeper keeps an honest book. " * 8
PAIRS = (Role.PREFILL, Role.PREFILL, Role.DECODE, Role.DECODE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def fleet(model: Path) -> AsyncIterator[FakeFleet]:
    async with running_fleet(model, roles=PAIRS) as running:
        yield running
        await running.wait_until(lambda: running.is_idle)


async def check_stream(client: openai.AsyncOpenAI, prompt: str, *, max_tokens: int) -> None:
    """The fake repeats its prompt: a lost, repeated or changed token shows in text or usage."""
    stream = await client.completions.create(
        model="fake", prompt=prompt, max_tokens=max_tokens, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert (prompt * 3).startswith(text)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == max_tokens


@pytest.mark.parametrize(
    "roles", [(Role.DECODE, Role.DECODE), (Role.PREFILL, Role.PREFILL), (Role.DECODE, Role.PREFILL)]
)
async def test_texts_are_whole_though_workers_crash(fleet: FakeFleet, roles: tuple[Role, ...]) -> None:
    async with openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as client:
        set_frozen(fleet, Role.PREFILL in roles)  # a prefill is too short to be hit otherwise
        streams = [asyncio.create_task(check_stream(client, f"{i} {LONG}", max_tokens=150)) for i in range(8)]
        for role in roles:
            await fleet.wait_until(lambda role=role: any(busy(fleet, role)))
            victim = next(busy(fleet, role))
            await fleet.crash(victim)
            await fleet.add(FakeSettings(worker=victim, role=role, itl_s=0.001))
        set_frozen(fleet, False)
        await asyncio.gather(*streams)


def set_frozen(fleet: FakeFleet, frozen: bool) -> None:
    for fake in fleet.workers.values():
        if fake.settings.role is Role.PREFILL:
            fake.is_frozen = frozen


def busy(fleet: FakeFleet, role: Role) -> Iterator[str]:
    """Workers of a role that this router has given sequences to."""
    return (member.name for member in fleet.router.dispatcher.fleet if member.info.role is role and member.sequences)


async def test_a_decode_worker_without_room_costs_no_token(fleet: FakeFleet) -> None:
    refusals = iter([pb.HANDOFF_REFUSED, pb.HANDOFF_FAILED, pb.HANDOFF_REFUSED, pb.HANDOFF_REFUSED])
    for fake in fleet.workers.values():
        fake.on_handoff = lambda _: next(refusals, pb.HANDOFF_COMMITTED)
    async with openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as client:
        for i in range(3):
            await check_stream(client, f"{i} {LONG}", max_tokens=40)
    assert next(refusals, None) is None


async def one_request(http: aiohttp.ClientSession, dice: random.Random) -> None:
    body = {
        "model": "fake",
        "prompt": LONG[: dice.randrange(10, len(LONG))],
        "max_tokens": dice.randrange(1, 20),
        "n": dice.choice([1, 1, 2]),
        "stream": dice.random() < 0.7,
    }
    patience_s = dice.choice([0.002, 0.01, 0.05, 30.0, 30.0])
    try:
        async with asyncio.timeout(patience_s), http.post("/v1/completions", data=orjson.dumps(body)) as answer:
            await answer.read()
            assert answer.status == 200
    except TimeoutError:
        return


async def test_a_thousand_requests_with_random_aborts_leave_nothing_behind(fleet: FakeFleet) -> None:
    dice = random.Random(5)
    door = asyncio.Semaphore(40)

    async def client(http: aiohttp.ClientSession) -> None:
        async with door:
            await one_request(http, dice)

    connector = aiohttp.TCPConnector(limit=40)
    async with aiohttp.ClientSession(base_url=fleet.url, connector=connector) as http, asyncio.TaskGroup() as group:
        for _ in range(1000):
            group.create_task(client(http))
    await fleet.wait_until(lambda: fleet.is_idle)
    dispatcher = fleet.router.dispatcher
    assert all(not member.sequences for member in dispatcher.fleet)
    assert any(fake.cancelled for fake in fleet.workers.values()), "some clients did leave early"
    assert len(dispatcher.records) == 1000


async def test_a_stream_nobody_can_continue_ends_with_an_error_event(model: Path) -> None:
    limits = AdmissionConfig(queue_timeout_s=0.1)
    async with running_fleet(model, roles=(Role.MIXED,), admission=limits) as fleet:
        async with openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as client:
            stream = await client.completions.create(model="fake", prompt=LONG, max_tokens=4000, stream=True)
            said = [(await anext(stream)).choices[0].text]
            await fleet.crash("mixed-0")

            async def read_on() -> None:
                async for chunk in stream:
                    said.append(chunk.choices[0].text)  # noqa: PERF401 - what came before the error counts

            with pytest.raises(openai.APIError, match="no worker had room in time"):
                await read_on()
        assert (LONG * 30).startswith("".join(said)), "what was said before stays right"
        assert fleet.is_idle


async def test_a_client_that_stops_reading_is_cut_off(model: Path) -> None:
    async with running_fleet(model, roles=(Role.MIXED,), itl_s=0.0002, stream_buffer_tokens_max=200) as fleet:
        (fake,) = fleet.workers.values()
        body = orjson.dumps({"model": "fake", "prompt": LONG, "max_tokens": 7000, "stream": True, "n": 16})
        _, writer = await asyncio.open_connection("127.0.0.1", fleet.router.http_port, limit=2**10)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        await fleet.wait_until(lambda: len(fake.cancelled) == 16)
        await fleet.wait_until(lambda: fleet.is_idle)
        writer.close()


async def test_a_long_prompt_does_not_hold_up_the_streams_of_others(fleet: FakeFleet) -> None:
    """Long texts are encoded on another thread; the answer is the same as for short ones."""
    async with openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as client:
        text = LONG * 20
        answer = await client.completions.create(model="fake", prompt=text, max_tokens=60)
    assert text.startswith(answer.choices[0].text)
