"""What clients and workers do at bad moments: nothing leaks, nobody else notices."""

import asyncio
import random

import aiohttp
import openai
import pytest
from in_process import StartPlatform, WorkerPlan

PAIR = (
    WorkerPlan(name="p", role="prefill", transports=("shm", "tcp")),
    WorkerPlan(name="d", role="decode", transports=("shm", "tcp")),
)


async def test_a_thousand_requests_with_random_aborts_leave_nothing_behind(start_platform: StartPlatform) -> None:
    async with start_platform(PAIR) as platform:
        rng = random.Random(11)
        outcomes = [0, 0]
        limit = asyncio.Semaphore(48)
        async with aiohttp.ClientSession() as http:
            url = f"{platform.url}/v1/completions"
            await asyncio.gather(*(one_request(http, url, rng.random(), limit, outcomes) for _ in range(1000)))
        assert outcomes[0] > 100
        assert outcomes[1] > 100
        await platform.wait_quiet()
        assert platform.router.dispatcher.sequences == 0
        for built in platform.built.values():
            blocks = built.engine.blocks()
            assert blocks.active == blocks.held == blocks.reserved == 0
            await asyncio.to_thread(built.engine.check_integrity)


async def one_request(
    http: aiohttp.ClientSession, url: str, chance: float, limit: asyncio.Semaphore, outcomes: list[int]
) -> None:
    """Three in four are let run to the end; the others are dropped after a random number of tokens."""
    rng = random.Random(chance)
    prompt = [rng.randrange(10, 600) for _ in range(rng.randrange(1, 120))]
    stop_after = rng.randrange(0, 8) if rng.random() < 0.25 else None
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0, "stream": True}
    async with limit:
        reply = await http.post(url, json=body)
        assert reply.status == 200
        seen = 0
        if stop_after != 0:
            async for line in reply.content:
                seen += line.startswith(b"data: ")
                if seen == stop_after:
                    break
        reply.close()  # before its end, the connection goes with it
        outcomes[stop_after is not None] += 1


async def test_a_lost_decode_worker_changes_no_token(start_platform: StartPlatform) -> None:
    prompt = [7 + i % 500 for i in range(200)]
    plans = [*PAIR, WorkerPlan(name="d2", role="decode", transports=("tcp",))]
    async with start_platform([WorkerPlan(name="alone")]) as alone:
        expected = await alone.complete(prompt, max_tokens=120)
    async with start_platform(plans) as platform:
        running = [asyncio.create_task(platform.complete(prompt, max_tokens=120)) for _ in range(4)]
        while not any(row.output_tokens > 10 for row in platform.records()):
            await asyncio.sleep(0.01)
        await platform.stop_worker("d")
        assert set(await asyncio.gather(*running)) == {expected}
        await platform.wait_quiet()


async def test_a_lost_prefill_worker_changes_no_token(start_platform: StartPlatform) -> None:
    prompt = [9 + i % 500 for i in range(600)]
    plans = [
        WorkerPlan(name="p", role="prefill", step_tokens_max=96),
        WorkerPlan(name="p2", role="prefill", step_tokens_max=96),
        WorkerPlan(name="d", role="decode"),
    ]
    async with start_platform([WorkerPlan(name="alone")]) as alone:
        expected = await alone.complete(prompt)
    async with start_platform(plans) as platform:
        running = [asyncio.create_task(platform.complete(prompt)) for _ in range(6)]
        while not any(row.state == "prefill" for row in platform.records()):
            await asyncio.sleep(0.005)
        await platform.stop_worker("p")
        assert set(await asyncio.gather(*running)) == {expected}
        await platform.wait_quiet()


async def test_bad_requests_are_refused_while_others_are_served(start_platform: StartPlatform) -> None:
    async with start_platform([WorkerPlan(name="alone")]) as platform:
        too_long = [11] * 5000
        with pytest.raises(openai.BadRequestError, match="prompt"):
            await platform.complete(too_long)
        assert await platform.complete([5, 6, 7])
        await platform.wait_quiet()
