"""Routers side by side: each serves, one dies, and a client that comes back to the other misses nothing."""

import asyncio

import pytest
from in_process import Platform, StartPlatform, WorkerPlan
from sse_client import Answer, stream_completion

TOKENS = 300
PAIR = (
    WorkerPlan(name="p", role="prefill", transports=("shm",), kv_memory_mib=16),
    WorkerPlan(name="d", role="decode", transports=("shm",), kv_memory_mib=16),
)
MIXED = (
    WorkerPlan(name="w0", transports=("shm",), kv_memory_mib=16),
    WorkerPlan(name="w1", transports=("shm",), kv_memory_mib=16),
)


def body_of(seed: int, **settings: object) -> dict[str, object]:
    prompt = [5 + ((seed * 31 + i) * 7919) % 590 for i in range(30 + 11 * seed)]
    sampled = {"temperature": 0.8, "seed": seed} if seed % 2 else {"temperature": 0}
    usage = {"include_usage": True}
    values = {"model": "tiny", "prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    return {**values, "stream_options": usage, **sampled, **settings}


def urls_of(platform: Platform) -> list[str]:
    return [f"http://127.0.0.1:{router.http_port}" for router in platform.routers]


async def undisturbed(start_platform: StartPlatform, bodies: list[dict[str, object]]) -> list[dict[int, str]]:
    async with start_platform([WorkerPlan(name="alone", kv_memory_mib=16)]) as alone:
        asked = [stream_completion(urls_of(alone), body, Answer()) for body in bodies]
        return [answer.texts for answer in await asyncio.gather(*asked)]


async def wait_texts(answers: list[Answer]) -> None:
    async with asyncio.timeout(30):
        while not all(len(text) > 20 for answer in answers for text in [*answer.texts.values(), ""][:1]):
            await asyncio.sleep(0.01)


def check_whole(answers: list[Answer], expected: list[dict[int, str]]) -> None:
    assert [answer.texts for answer in answers] == expected
    for answer in answers:
        assert all(reasons == ["length"] for reasons in answer.finishes.values())
        assert answer.completion_tokens == TOKENS * len(answer.texts)


async def test_two_routers_share_workers_and_keep_to_their_own_requests(start_platform: StartPlatform) -> None:
    bodies = [body_of(seed) for seed in range(6)]
    expected = await undisturbed(start_platform, bodies)
    async with start_platform(PAIR, routers=2) as platform:
        urls, answers = urls_of(platform), [Answer() for _ in bodies]
        await asyncio.gather(*(stream_completion(urls, body, answers[i], first=i % 2) for i, body in enumerate(bodies)))
        check_whole(answers, expected)
        assert [answer.resumed for answer in answers] == [0] * 6
        await platform.wait_quiet()


@pytest.mark.parametrize("plans", [PAIR, MIXED], ids=["split", "mixed"])
async def test_a_router_dies_and_its_clients_get_the_rest_from_the_other(
    start_platform: StartPlatform, plans: tuple[WorkerPlan, ...]
) -> None:
    bodies = [body_of(seed, **({"n": 2} if seed == 3 else {})) for seed in range(5)]
    expected = await undisturbed(start_platform, bodies)
    async with start_platform(plans, routers=2) as platform:
        urls, answers = urls_of(platform), [Answer() for _ in bodies]
        asked = [asyncio.create_task(stream_completion(urls, b, a)) for b, a in zip(bodies, answers, strict=True)]
        await wait_texts(answers)
        await platform.crash_router(0)
        await asyncio.gather(*asked)
        check_whole(answers, expected)
        assert any(answer.resumed for answer in answers)
        adopted = platform.routers[1].dispatcher.records.latest(request=None, limit=100)
        assert any(record.decision == "adopted from an earlier router" for record in adopted)
        await platform.wait_quiet()
        for built in platform.built.values():
            await asyncio.to_thread(built.engine.check_integrity)
