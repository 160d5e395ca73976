"""`sluice migrate`, `drain`, `flip` and `get fabric` on real processes, while a client streams."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from real_processes import requests_of, wait_until, workers_of

from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.cli.main import main
from sluice.config.worker import EngineConfig

pytestmark = pytest.mark.system

PROMPT = [5 + i % 500 for i in range(90)]
OUTPUT_TOKENS = 400


@pytest.fixture(scope="module")
def fleet(model_path: Path) -> Iterator[LocalFleet]:
    """Two workers that do everything."""
    plan = FleetPlan(
        model_path=model_path, model_name="tiny", prefill=0, decode=0, mixed=2, engine=EngineConfig(kv_memory_mib=16)
    )
    with LocalFleet(plan) as running:
        running.wait_ready(lambda _: None)
        yield running


async def complete(fleet: LocalFleet) -> str:
    async with openai.AsyncOpenAI(base_url=fleet.url, api_key="none", max_retries=0, timeout=60) as client:
        reply = await client.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=OUTPUT_TOKENS, temperature=0, extra_body={"ignore_eos": True}
        )
        return reply.choices[0].text


async def wait_running(fleet: LocalFleet) -> tuple[str, str]:
    """A request that has some tokens, and its worker."""

    def running() -> list[tuple[str, str]]:
        rows = requests_of(fleet)
        return [(r.request_id, r.decode_worker) for r in rows if r.state == "decode" and r.output_tokens > 5]

    await asyncio.to_thread(wait_until, lambda: bool(running()), "a running request")
    return running()[0]


def sluice(fleet: LocalFleet, *words: str) -> int:
    return main([*words, "--grpc", fleet.grpc_address])


async def test_a_request_moved_by_hand_says_the_same(fleet: LocalFleet, capsys: pytest.CaptureFixture[str]) -> None:
    expected = await complete(fleet)
    for how in ([], ["--recompute"]):
        asked = asyncio.create_task(complete(fleet))
        request, worker = await wait_running(fleet)
        status = await asyncio.to_thread(sluice, fleet, "migrate", request, *how)
        assert status == 0, capsys.readouterr().err
        assert f"moving from {worker}" in capsys.readouterr().out
        assert await asked == expected
        (row,) = [row for row in requests_of(fleet) if row.request_id == request]
        assert [move.how for move in row.moves] == ["recomputed" if how else "migrated"]
    assert await asyncio.to_thread(sluice, fleet, "get", "fabric") == 0
    assert "GB/s" in capsys.readouterr().out


async def test_drain_reports_each_request_and_resume_admits_again(
    fleet: LocalFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = asyncio.create_task(complete(fleet))
    request, worker = await wait_running(fleet)
    assert await asyncio.to_thread(sluice, fleet, "drain", worker, "--deadline", "30s") == 0
    said = capsys.readouterr().out
    assert f"{request}  migrated" in said
    assert "safe to stop" in said
    await asked
    assert {row.info.worker: row.load.lifecycle for row in workers_of(fleet)}[worker] == "drained"
    assert await asyncio.to_thread(sluice, fleet, "drain", worker, "--resume") == 0
    wait_until(lambda: {row.load.lifecycle for row in workers_of(fleet)} == {"ready"}, "the worker to admit again")


async def test_flip_changes_a_role_and_back(fleet: LocalFleet, capsys: pytest.CaptureFixture[str]) -> None:
    for role in ("decode", "mixed"):
        assert await asyncio.to_thread(sluice, fleet, "flip", "mixed-0", "--role", role) == 0
        assert f"mixed-0 is a {role} worker now" in capsys.readouterr().out
        assert {row.info.worker: row.info.role for row in workers_of(fleet)}["mixed-0"] == role


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("drain", "nobody"), "worker: 'nobody' is not connected; use one of: mixed-0, mixed-1"),
        (("flip", "nobody", "--role", "decode"), "worker: 'nobody' is not connected"),
        (("migrate", "cmpl-none"), "request_id: names no running request"),
        (("drain", "mixed-0", "--deadline", "-1"), "--deadline: is -1; use seconds from 0"),
    ],
)
def test_what_cannot_be_done_is_said(
    fleet: LocalFleet, words: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sluice(fleet, *words) == 1
    assert complaint in capsys.readouterr().err
