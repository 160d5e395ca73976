"""Routers side by side: each serves, one dies, and a client that comes back to the other misses nothing."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from in_process import Platform, StartPlatform, WorkerPlan
from sse_client import Answer, stream_completion, take_event

from sluice.domain.ids import BlockHash
from sluice.domain.sampling import SamplingParams
from sluice.router import event_ids
from sluice.router.dispatcher import Dispatcher
from sluice.router.job import Job, Prompt
from sluice.wire import channels
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

TOKENS = 400  # long enough that a router dies in the middle on any machine
LONG_TOKENS = 1500  # and is missed, its requests adopted and moved
KNOWN: dict[bytes, dict[int, str]] = {}  # what an undisturbed platform answers to a body
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
    keys = [orjson.dumps(body) for body in bodies]
    if new := {key: body for key, body in zip(keys, bodies, strict=True) if key not in KNOWN}:
        async with start_platform([WorkerPlan(name="alone", kv_memory_mib=16)]) as alone:
            asked = [stream_completion(urls_of(alone), body, Answer()) for body in new.values()]
            KNOWN.update(zip(new, [answer.texts for answer in await asyncio.gather(*asked)], strict=True))
    return [KNOWN[key] for key in keys]


async def wait_texts(answers: list[Answer]) -> None:
    async with asyncio.timeout(30):
        while not all(len(text) > 20 for answer in answers for text in [*answer.texts.values(), ""][:1]):
            await asyncio.sleep(0.01)


def check_whole(answers: list[Answer], expected: list[dict[int, str]], *, tokens: int = TOKENS) -> None:
    assert [answer.texts for answer in answers] == expected
    for answer in answers:
        assert all(reasons == ["length"] for reasons in answer.finishes.values())
        assert answer.completion_tokens == tokens * len(answer.texts)


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


async def read_some(platform: Platform, body: dict[str, object]) -> Answer:
    """A stream begun at the first router, whose client stops reading when that router dies."""
    answer = Answer()
    asked = asyncio.create_task(stream_completion(urls_of(platform)[:1], body, answer))
    await wait_texts([answer])
    await platform.crash_router(0)
    asked.cancel()
    await asyncio.wait({asked})
    return answer


async def test_the_client_printed_in_the_api_reference_survives_a_router(start_platform: StartPlatform) -> None:
    body = body_of(4)
    (expected,) = await undisturbed(start_platform, [body])
    names: dict[str, Any] = {}
    page = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    exec(page.partition("```python\n")[2].partition("```")[0], names)
    async with start_platform(MIXED, routers=2) as platform:
        answer = Answer()

        def read() -> None:
            for data in names["events"](urls_of(platform), body):
                take_event(data.encode(), answer)

        asked = asyncio.create_task(asyncio.to_thread(read))
        await wait_texts([answer])
        await platform.crash_router(0)
        await asked
        check_whole([answer], [expected])


async def test_a_request_that_ended_while_nobody_listened_is_kept_for_its_client(start_platform: StartPlatform) -> None:
    body = body_of(3)
    (expected,) = await undisturbed(start_platform, [body])
    async with start_platform(MIXED, routers=2) as platform:
        answer = await read_some(platform, body)
        assert not answer.is_done
        await platform.wait_quiet()  # it has run to its end
        await stream_completion(urls_of(platform)[1:], body, answer)
        check_whole([answer], [expected])
        (record,) = platform.routers[1].dispatcher.records.latest(request=None, limit=10)
        assert record.decision == "adopted from an earlier router"


async def test_adopted_requests_move_between_workers_like_any_other(start_platform: StartPlatform) -> None:
    bodies = [body_of(seed, max_tokens=LONG_TOKENS) for seed in range(3)]
    expected = await undisturbed(start_platform, bodies)
    async with start_platform(MIXED, routers=2) as platform:
        urls, answers = urls_of(platform), [Answer() for _ in bodies]
        asked = [asyncio.create_task(stream_completion(urls, b, a)) for b, a in zip(bodies, answers, strict=True)]
        await wait_texts(answers)
        crash = asyncio.create_task(platform.crash_router(0))
        await move_each(platform.routers[1].dispatcher, platform.now_s, asked)
        await asyncio.gather(*asked, crash)
        check_whole(answers, expected, tokens=LONG_TOKENS)
        records = list(platform.routers[1].dispatcher.records.latest(request=None, limit=100))
        adopted = [record for record in records if record.decision == "adopted from an earlier router"]
        assert any(record.migrations for record in adopted)
        await platform.wait_quiet()


async def move_each(dispatcher: Dispatcher, now_s: Callable[[], float], asked: "list[asyncio.Task[Answer]]") -> None:
    """Every sequence that can move does, as soon as it can, until all have ended."""
    while not all(task.done() for task in asked):
        await asyncio.sleep(0.01)
        for flow in list(dispatcher._flows.values()):
            target = dispatcher.targets.elsewhere_for(flow)
            if flow.can_move and target is not None:
                flow.move(target, why="test", now_s=now_s())


async def test_a_router_whose_stream_broke_places_its_requests_anew(start_platform: StartPlatform) -> None:
    """It is the same process: the worker must not keep what it had for it."""
    bodies = [body_of(seed) for seed in range(3)]
    expected = await undisturbed(start_platform, bodies)
    async with start_platform([WorkerPlan(name="w", kv_memory_mib=16)]) as platform:
        answers = [Answer() for _ in bodies]
        asked = [
            asyncio.create_task(stream_completion(urls_of(platform), b, a))
            for b, a in zip(bodies, answers, strict=True)
        ]
        await wait_texts(answers)
        (member,) = platform.router.dispatcher.fleet
        member.link.close("cut for a test")
        await asyncio.gather(*asked)
        check_whole(answers, expected)
        assert [answer.resumed for answer in answers] == [0] * 3
        assert {record.epoch for record in platform.records()} == {1}
        await platform.wait_quiet()


async def test_after_the_grace_nothing_is_left_of_a_lost_router(start_platform: StartPlatform) -> None:
    body = body_of(2, max_tokens=3000)
    async with start_platform(MIXED, routers=2, router_grace_s=0.2) as platform:
        answer = await read_some(platform, body)
        await platform.wait_quiet()
        assert not answer.is_done
        copies = await platform.routers[1].dispatcher.claims.ask(job_named(platform, answer))
        assert not copies


def job_named(platform: Platform, answer: Answer) -> Job:
    prompt = Prompt(tokens=(1,), root=BlockHash(b""), unit_hashes=())
    request, next_index = event_ids.parse(answer.last_id)
    sampling = SamplingParams(max_tokens=1)
    return Job(request=request, prompts=(prompt,), n=1, sampling=sampling, stops=(), timeout_s=1, next_index=next_index)


async def test_what_no_worker_has_any_more_is_computed_again_just_the_same(start_platform: StartPlatform) -> None:
    """No seed is given: it follows from the request's id."""
    body = body_of(2, temperature=0.9, stop=["zq"])
    async with start_platform([WorkerPlan(name="w", kv_memory_mib=16)], routers=2, router_grace_s=0.0) as platform:
        answer = await read_some(platform, body)
        await platform.wait_quiet()
        request = answer.last_id.split("/")[0]
        urls = urls_of(platform)[1:]
        whole = await stream_completion(urls, body, Answer(last_id=f"{request}/0"))
        await stream_completion(urls, body, answer)
        assert (answer.texts, answer.finishes) == (whole.texts, whole.finishes)
        other = await stream_completion(urls, body, Answer())
        assert other.texts != whole.texts, "another request draws otherwise"


async def test_grpc_clients_resume_by_request_id_and_next_index(start_platform: StartPlatform) -> None:
    prompt = pb.TokenIds(ids=[5 + i * 37 % 590 for i in range(90)])
    sampling = pb.SamplingParams(max_tokens=TOKENS, temperature=0.9, ignore_eos=True)
    plain = pb.GenerateRequest(request_id="mine", model="tiny", prompt_tokens=prompt, sampling=sampling, n=2)
    async with start_platform([WorkerPlan(name="alone", kv_memory_mib=16)]) as alone:
        expected = await generate(alone, 0, plain, {})
    async with start_platform(MIXED, routers=2) as platform:
        tokens: dict[int, list[int]] = {}
        broken = asyncio.create_task(generate(platform, 0, plain, tokens))
        async with asyncio.timeout(30):
            while len(tokens.get(1, ())) < 5:
                await asyncio.sleep(0.01)
        crash = asyncio.create_task(platform.crash_router(0))
        broken.cancel()
        have = {choice: len(ids) for choice, ids in tokens.items()}
        resumed = pb.GenerateRequest()
        resumed.CopyFrom(plain)
        resumed.resume.CopyFrom(pb.Resume(request_id="mine", next_index=have))
        assert await generate(platform, 1, resumed, tokens) == expected
        await crash
        await platform.wait_quiet()


async def generate(
    platform: Platform, router: int, request: pb.GenerateRequest, tokens: dict[int, list[int]]
) -> dict[int, list[int]]:
    """Adds the tokens of each choice to `tokens`, which must follow on those there."""
    async with channels.connect(f"127.0.0.1:{platform.routers[router].grpc_port}") as channel:
        async for event in rpc.InferenceStub(channel).Generate(request):
            if event.tokens:
                have = tokens.setdefault(event.choice, [])
                assert event.first_index == len(have)
                have += event.tokens
    assert event.usage.completion_tokens == sum(map(len, tokens.values()))
    return tokens


NONSENSE: list[tuple[str, dict[str, object], str]] = [
    ("nonsense", {}, "last-event-id"),
    ("cmpl-1/3.4", {}, "last-event-id"),  # more choices than it has
    ("cmpl-1/3", {"stream": False, "stream_options": None}, "last-event-id"),
    ("", {"prompt": "another"}, "last-event-id"),
    ("", {"seed": 5}, "last-event-id"),
]


async def test_a_resumption_that_makes_no_sense_is_refused_by_name(start_platform: StartPlatform) -> None:
    async with start_platform([WorkerPlan(name="w", kv_memory_mib=16)], routers=2) as platform:
        body = body_of(3, max_tokens=3500)
        answer = Answer()
        asked = asyncio.create_task(stream_completion(urls_of(platform)[:1], body, answer))
        await wait_texts([answer])
        async with aiohttp.ClientSession() as http:
            for last_id, changed, says in NONSENSE:
                headers = {"Last-Event-ID": last_id or answer.last_id}
                url = f"{urls_of(platform)[1]}/v1/completions"
                async with http.post(url, json={**body, **changed}, headers=headers) as reply:
                    assert reply.status == 400, (last_id, changed)
                    assert says in await reply.text(), (last_id, changed)
                assert not answer.is_done, "the stream that it names goes on"
        asked.cancel()
        await asyncio.wait({asked})
        await platform.wait_quiet()
