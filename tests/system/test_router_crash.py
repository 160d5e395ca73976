"""A router process is killed under load: its clients go to another one and get every token, once."""

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_processes import wait_until, workers_of
from sse_client import Answer, stream_completion

from sluice.cli.local_fleet import ROUTER, FleetPlan, LocalFleet
from sluice.config.worker import EngineConfig, TransferConfig

pytestmark = pytest.mark.system

CLIENTS = 6
REQUESTS_EACH = 3
TOKENS = 150


@pytest.fixture(scope="module")
def fleet(model_path: Path) -> Iterator[LocalFleet]:
    plan = FleetPlan(
        model_path=model_path,
        model_name="tiny",
        prefill=1,
        decode=1,
        routers=2,
        engine=EngineConfig(threads=1, kv_memory_mib=16, step_tokens_max=128),
        transfer=TransferConfig(checksums="always"),
    )
    with LocalFleet(plan) as running:
        running.wait_ready(lambda _: None)
        yield running


def body_of(seed: int) -> dict[str, object]:
    rng = random.Random(seed)
    prompt = [rng.randrange(10, 600) for _ in range(rng.randrange(20, 200))]
    sampled = {"temperature": 0.9, "seed": seed} if seed % 2 else {"temperature": 0}
    return {
        "model": "tiny",
        "prompt": prompt,
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampled,
    }


async def one_client(urls: list[str], number: int, answers: dict[int, Answer]) -> None:
    """One request after another, half of the clients preferring each router."""
    for turn in range(REQUESTS_EACH):
        seed = number * REQUESTS_EACH + turn
        await stream_completion(urls, body_of(seed), answers[seed], first=number % 2)


async def load(fleet: LocalFleet, answers: dict[int, Answer]) -> None:
    urls = [url.removesuffix("/v1") for url in fleet.urls]
    await asyncio.gather(*(one_client(urls, number, answers) for number in range(CLIENTS)))


def fresh() -> dict[int, Answer]:
    return {seed: Answer() for seed in range(CLIENTS * REQUESTS_EACH)}


async def test_killed_routers_lose_no_token_of_anyone(fleet: LocalFleet) -> None:
    expected, answers = fresh(), fresh()
    await load(fleet, expected)
    running = asyncio.create_task(load(fleet, answers))
    for number, name in enumerate((f"{ROUTER}-1", ROUTER)):
        begun = (number + 1) * CLIENTS // 2
        await asyncio.to_thread(wait_until, lambda: streaming(answers) >= begun, "streams")  # noqa: B023 - awaited here
        os.kill(fleet.children[name].pid, signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: not fleet.children[name].is_alive(), "its death")  # noqa: B023
        await asyncio.to_thread(fleet.restart_lost)
        await asyncio.to_thread(fleet.wait_ready, lambda _: None)
    await running
    assert {seed: answer.texts for seed, answer in answers.items()} == {s: a.texts for s, a in expected.items()}
    assert all(answer.finishes == {0: ["length"]} for answer in answers.values())
    assert all(answer.completion_tokens == TOKENS for answer in answers.values())
    assert any(answer.resumed for answer in answers.values())
    await asyncio.to_thread(
        wait_until, lambda: all(not row.load.running_sequences for row in workers_of(fleet)), "rest"
    )


def is_at_rest(fleet: LocalFleet) -> bool:
    return not any(row.load.running_sequences for row in workers_of(fleet))


def streaming(answers: dict[int, Answer]) -> int:
    return sum(bool(answer.texts) for answer in answers.values())
