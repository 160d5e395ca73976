"""A handoff changes where a sequence runs, never what it says."""

import asyncio
import random

import pytest
from in_process import Platform, StartPlatform, WorkerPlan

PROMPT_TOKENS = (1, 2, 15, 16, 17, 31, 33, 127, 128, 130, 300, 515)
BACKENDS = ("inproc", "shm", "tcp", "nixl")


def prompts(seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(10, 600) for _ in range(length)] for length in PROMPT_TOKENS]


async def answers(platform: Platform, asked: list[list[int]], **settings: object) -> list[str]:
    return list(await asyncio.gather(*(platform.complete(prompt, **settings) for prompt in asked)))


async def check(start_platform: StartPlatform, prefill: WorkerPlan, decode: WorkerPlan, **settings: object) -> None:
    """Answers over a handoff equal those of one worker doing all, and every worker is empty afterwards."""
    asked = prompts(seed=prefill.block_tokens + decode.block_tokens)
    async with start_platform([WorkerPlan(name="alone")]) as alone:
        expected = await answers(alone, asked, **settings)
    async with start_platform([prefill, decode]) as platform:
        assert await answers(platform, asked, **settings) == expected
        again = await answers(platform, asked, **settings)  # now with prefix hits on both sides
        assert again == expected
        await platform.wait_quiet()
        rows = [row for row in platform.records() if row.prompt_tokens >= 128 and row.kv_bytes]
        assert rows
        assert {row.transport for row in rows} == set(decode.transports)
        assert {row.decode_worker for row in rows} == {"d"}


@pytest.mark.parametrize("backend", BACKENDS)
async def test_tokens_are_the_same_over_every_transport(start_platform: StartPlatform, backend: str) -> None:
    await check(
        start_platform,
        WorkerPlan(name="p", role="prefill", transports=(backend,)),
        WorkerPlan(name="d", role="decode", transports=(backend,)),
    )


@pytest.mark.parametrize(("prefill_block", "decode_block"), [(16, 32), (32, 16), (16, 64), (64, 16), (64, 64)])
async def test_tokens_are_the_same_for_every_block_size_ratio(
    start_platform: StartPlatform, prefill_block: int, decode_block: int
) -> None:
    await check(
        start_platform,
        WorkerPlan(name="p", role="prefill", transports=("tcp",), block_tokens=prefill_block),
        WorkerPlan(name="d", role="decode", transports=("tcp",), block_tokens=decode_block),
    )


async def test_sampled_tokens_are_the_same_for_the_same_seed(start_platform: StartPlatform) -> None:
    await check(
        start_platform,
        WorkerPlan(name="p", role="prefill", transports=("shm",)),
        WorkerPlan(name="d", role="decode", transports=("shm",)),
        temperature=0.9,
        top_p=0.95,
        seed=1234,
        presence_penalty=0.5,
    )


async def test_siblings_of_one_request_are_the_same(start_platform: StartPlatform) -> None:
    prompt = prompts(seed=3)[9]

    async def choices(platform: Platform) -> list[str]:
        reply = await platform.client.completions.create(
            model="tiny", prompt=prompt, max_tokens=8, temperature=1.0, seed=5, n=4
        )
        return [choice.text for choice in reply.choices]

    async with start_platform([WorkerPlan(name="alone")]) as alone:
        expected = await choices(alone)
    assert len(set(expected)) > 1, "siblings draw different numbers"
    async with start_platform(
        [
            WorkerPlan(name="p", role="prefill", transports=("shm",)),
            WorkerPlan(name="d", role="decode", transports=("shm",)),
        ]
    ) as platform:
        assert await choices(platform) == expected
        await platform.wait_quiet()


async def test_a_full_decode_worker_refuses_and_another_or_the_prefill_worker_goes_on(
    start_platform: StartPlatform,
) -> None:
    asked = prompts(seed=9)
    async with start_platform([WorkerPlan(name="alone")]) as alone:
        expected = await answers(alone, asked, max_tokens=40)
    # 0.5 MiB hold about 500 tokens: far fewer than all the prompts together.
    plans = [
        WorkerPlan(name="p", role="prefill", transports=("shm",)),
        WorkerPlan(name="d0", role="decode", transports=("shm",), kv_memory_mib=1),
        WorkerPlan(name="d1", role="decode", transports=("shm",), kv_memory_mib=1),
    ]
    async with start_platform(plans) as platform:
        assert await answers(platform, asked, max_tokens=40) == expected
        await platform.wait_quiet()
