"""A running request moves between workers, and nobody could tell from its tokens."""

import asyncio
import functools
import random
import threading
from collections.abc import Callable

import pytest
from in_process import Platform, StartPlatform, WorkerPlan

from sluice.decode_worker import precopy
from sluice.engine.engine import PagedEngine

OUTPUT_TOKENS = 200


async def stream(platform: Platform, prompt: list[int], **settings: object) -> tuple[str, list[str]]:
    """The whole text, and the text of every event."""
    values = {"model": "tiny", "max_tokens": OUTPUT_TOKENS, "temperature": 0, "stream": True, **settings}
    pieces = []
    async for chunk in await platform.client.completions.create(prompt=prompt, **values):
        pieces += [choice.text for choice in chunk.choices]
    return "".join(pieces), pieces


async def move_until_done(platform: Platform, rng: random.Random, finished: "asyncio.Task[object]") -> None:
    """Ask for a move of any running sequence, again and again, at random moments."""
    while not finished.done():
        await asyncio.sleep(rng.random() * 0.03)
        for flow in list(platform.router.dispatcher._flows.values()):
            target = platform.router.dispatcher.targets.elsewhere_for(flow)
            if flow.can_move and target is not None:
                flow.move(target, why="test", now_s=platform.now_s())


def prompt_of(length: int, *, start: int = 0) -> list[int]:
    return [5 + ((start + i) * 7919) % 590 for i in range(length)]


@pytest.mark.parametrize("backend", ["inproc", "shm", "tcp", "nixl"])
async def test_tokens_are_the_same_however_often_a_request_moves(start_platform: StartPlatform, backend: str) -> None:
    settings = {"temperature": 0.8, "seed": 77, "presence_penalty": 0.3}
    prompt = prompt_of(150)
    async with start_platform([WorkerPlan(name="alone")]) as alone:
        expected, _ = await stream(alone, prompt, **settings)
    plans = [WorkerPlan(name=f"w{i}", transports=(backend,), block_tokens=16 << (i % 2)) for i in range(3)]
    async with start_platform(plans) as platform:
        asked = asyncio.create_task(stream(platform, prompt, **settings))
        await move_until_done(platform, random.Random(1), asked)
        text, _ = await asked
        assert text == expected
        await platform.wait_quiet()
        (row,) = platform.records()
        assert row.migrations >= 2
        assert {move.how for move in row.moves} == {"migrated"}


async def logprobs_of(platform: Platform, prompt: list[int]) -> tuple[list[str], list[float]]:
    """The tokens of a streamed answer and their log-probabilities, as its client is told them."""
    values = {"model": "tiny", "max_tokens": OUTPUT_TOKENS, "temperature": 0, "stream": True, "logprobs": 2}
    tokens: list[str] = []
    logprobs: list[float] = []
    async for chunk in await platform.client.completions.create(prompt=prompt, **values):  # type: ignore[call-overload]
        for choice in chunk.choices:
            if choice.logprobs is not None:
                tokens += choice.logprobs.tokens
                logprobs += choice.logprobs.token_logprobs
    return tokens, logprobs


async def test_log_probabilities_come_once_for_every_token_however_often_a_request_moves(
    start_platform: StartPlatform,
) -> None:
    prompt = prompt_of(60)
    async with start_platform([WorkerPlan(name="alone")]) as alone:
        tokens, expected = await logprobs_of(alone, prompt)
    plans = [WorkerPlan(name=f"w{i}", transports=("inproc",)) for i in range(2)]
    async with start_platform(plans) as platform:
        asked = asyncio.create_task(logprobs_of(platform, prompt))
        await move_until_done(platform, random.Random(3), asked)
        moved_tokens, found = await asked
        (row,) = platform.records()
        assert row.migrations >= 2
        assert moved_tokens == tokens
        assert len(found) == len(tokens) > 0
        assert found == pytest.approx(expected, abs=1e-3)
        await platform.wait_quiet()


def stand_still_after(platform: Platform, output_tokens: int) -> Callable[[], None]:
    """No engine makes a step while all its sequences have so many tokens; it still answers. Returns what ends that."""
    is_over = threading.Event()

    def has_work(engine: PagedEngine, had_work: Callable[[], bool]) -> bool:
        everyone = [*engine.scheduler.waiting, *engine.scheduler.running]
        return had_work() and (is_over.is_set() or any(each.output_tokens < output_tokens for each in everyone))

    for built in platform.built.values():
        assert isinstance(built.engine, PagedEngine)
        built.engine.has_work = functools.partial(has_work, built.engine, built.engine.has_work)  # type: ignore[method-assign]

    def end() -> None:
        is_over.set()
        for worker in platform.workers.values():
            worker.shell.steps.call(lambda _: None)  # wakes it

    return end


async def test_a_move_that_rests_between_pieces_moves_the_same_tokens_and_a_drain_does_not_wait_for_it(
    start_platform: StartPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of a block, each followed by endless rests: only the drain lets the copy come to its end."""
    monkeypatch.setattr(precopy, "PIECE_BYTES", 1)
    monkeypatch.setattr(precopy, "paced_tokens", lambda _: 1_000_000)
    prompt = prompt_of(150)
    async with start_platform([WorkerPlan(name="alone")]) as alone:
        expected, _ = await stream(alone, prompt, max_tokens=100)
    plans = [WorkerPlan(name=f"w{i}", transports=("tcp",), copy_share=1e-9) for i in range(2)]
    async with start_platform(plans) as platform:
        go_on = stand_still_after(platform, 10)
        asked = asyncio.create_task(stream(platform, prompt, max_tokens=100))
        while not any(row.output_tokens >= 10 for row in platform.records()):
            await asyncio.sleep(0.01)
        (flow,) = platform.router.dispatcher._flows.values()
        owner, target = flow.owner, platform.router.dispatcher.targets.elsewhere_for(flow)
        assert owner is not None
        assert target is not None
        flow.move(target, why="test", now_s=platform.now_s())
        events = [event async for event in platform.drain(owner.name, deadline_s=120.0)]
        assert events[-1].lifecycle == "drained"
        assert [o.outcome for event in events for o in event.outcomes] == ["migrated"]
        go_on()
        text, _ = await asked
        assert text == expected
        await platform.wait_quiet()


async def test_many_requests_move_at_once_with_half_their_prompts_computed(start_platform: StartPlatform) -> None:
    """Prefill in small chunks, so that moves catch sequences waiting, half-prefilled and decoding."""
    prompts = [prompt_of(40 + 37 * i) for i in range(12)]
    async with start_platform([WorkerPlan(name="alone")]) as alone:
        expected = await asyncio.gather(*(stream(alone, prompt, max_tokens=40) for prompt in prompts))
    plans = [WorkerPlan(name=f"w{i}", transports=("shm",), step_tokens_max=80) for i in range(3)]
    async with start_platform(plans) as platform:
        asked = asyncio.gather(*(stream(platform, prompt, max_tokens=40) for prompt in prompts))
        await move_until_done(platform, random.Random(2), asked)  # type: ignore[arg-type]
        assert [text for text, _ in await asked] == [text for text, _ in expected]
        await platform.wait_quiet()
        for built in platform.built.values():
            await asyncio.to_thread(built.engine.check_integrity)


async def test_drain_moves_every_request_and_says_so(start_platform: StartPlatform) -> None:
    """Answers stand still until the drain has ended: none can end before it, however slow the machine is."""
    prompts = [prompt_of(30, start=10 * i) for i in range(8)]
    async with start_platform([WorkerPlan(name="alone")]) as alone:
        expected = await asyncio.gather(*(stream(alone, prompt, max_tokens=100) for prompt in prompts))
    plans = [WorkerPlan(name=f"w{i}", transports=("shm",)) for i in range(2)]
    async with start_platform(plans) as platform:
        go_on = stand_still_after(platform, 10)
        asked = [asyncio.create_task(stream(platform, prompt, max_tokens=100)) for prompt in prompts]
        while sum(row.output_tokens >= 10 for row in platform.records()) < len(prompts):
            await asyncio.sleep(0.01)
        members = platform.router.dispatcher.fleet
        busy = max(members, key=lambda member: len(member.sequences))
        at_busy = len(busy.sequences)
        events = [event async for event in platform.drain(busy.name, deadline_s=120.0)]
        assert events[-1].lifecycle == "drained"
        outcomes = [outcome.outcome for event in events for outcome in event.outcomes]
        assert outcomes == ["migrated"] * at_busy
        await platform.stop_worker(busy.name)  # a drained worker can go at once
        go_on()
        assert [text for text, _ in await asyncio.gather(*asked)] == [text for text, _ in expected]
        await platform.wait_quiet()


async def test_a_role_flips_without_losing_a_request(start_platform: StartPlatform) -> None:
    plans = [
        WorkerPlan(name="p", role="prefill", transports=("shm",)),
        WorkerPlan(name="d0", role="decode", transports=("shm",)),
        WorkerPlan(name="d1", role="decode", transports=("shm",)),
    ]
    prompt = prompt_of(100)
    async with start_platform(plans) as platform:
        expected = await platform.complete(prompt, max_tokens=OUTPUT_TOKENS)
        asked = [asyncio.create_task(platform.complete(prompt, max_tokens=OUTPUT_TOKENS)) for _ in range(6)]
        while sum(row.output_tokens > 3 for row in platform.records()) < 7:
            await asyncio.sleep(0.01)
        reply = await platform.flip("d0", "prefill")
        assert reply.role == "prefill"
        assert set(await asyncio.gather(*asked)) == {expected}
        assert {member.info.role.value for member in platform.router.dispatcher.fleet} == {"prefill", "decode"}
        assert await platform.complete(prompt, max_tokens=OUTPUT_TOKENS) == expected
        await platform.wait_quiet()
