"""`sluice explain`: what was weighed, predicted and decided about a request, refusals included."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from sluice.cli.main import main
from sluice.config.router import AdmissionConfig
from sluice.domain.role import Role
from sluice.testing.fake_fleet import FakeFleet, running_fleet
from sluice.testing.fake_worker import FakeSettings
from sluice.testing.tiny_tokenizer import make_model_directory

PROMPT = list(range(50, 250))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def fleet(model: Path) -> AsyncIterator[FakeFleet]:
    roles = (Role.PREFILL, Role.DECODE, Role.DECODE)
    async with running_fleet(model, roles=roles) as running:
        yield running


async def ask(fleet: FakeFleet, **headers: str) -> tuple[int, str]:
    """The answer's status, and the request's id as its header says."""
    body = {"model": "fake", "prompt": PROMPT, "max_tokens": 5, "service_tier": "priority"}
    url = f"{fleet.url}/v1/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as reply:
        await reply.read()
        return reply.status, reply.headers["x-request-id"]


async def explain(fleet: FakeFleet, *words: str) -> int:
    return await asyncio.to_thread(main, ["explain", *words, "--grpc", fleet.grpc_address])


async def test_a_placement_is_explained_with_its_candidates_and_what_came_of_it(
    fleet: FakeFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    status, request = await ask(fleet)
    assert status == 200
    assert await explain(fleet, request) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{request}: interactive, TTFT 500 ms, TPOT 50 ms; 200 prompt tokens; policy joint\n")
    assert " placed: " in told
    assert told.count("→ ") == 1, "one candidate is the chosen one"
    assert "came out: finished (length), TTFT" in told
    assert "(predicted " in told
    assert await explain(fleet, request, "--json") == 0
    told_json = json.loads(capsys.readouterr().out)
    (decision,) = told_json["decisions"]
    assert decision["kind"] == "placed"
    costs = [row["cost"] for row in decision["candidates"]]
    assert len(costs) > 1
    assert costs == sorted(costs)
    assert sum(decision["candidates"][0]["terms"].values()) == pytest.approx(costs[0], abs=1e-3)


async def test_a_request_nobody_remembers_is_said_to_be_so(
    fleet: FakeFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await explain(fleet, "cmpl-nobody") == 1
    assert "is not remembered here" in capsys.readouterr().err


async def test_a_refusal_at_the_door_is_explained(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_fleet(model, admission=AdmissionConfig(inflight_sequences_max=0)) as fleet:
        status, request = await ask(fleet)
        assert status == 429
        assert await explain(fleet, request) == 0
        assert "refused: the router serves 0 sequences, its limit" in capsys.readouterr().out


async def test_a_request_that_waits_says_for_what(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_fleet(model, roles=()) as fleet:
        fake = await fleet.add(FakeSettings(worker="small", batch_sequences_max=1))
        fake.is_frozen = True
        asked = [asyncio.create_task(ask(fleet)) for _ in range(4)]
        await fleet.wait_until(lambda: fleet.router.dispatcher.waiting == 2)
        waiting = next(iter(fleet.router.dispatcher._queue)).record.request
        assert await explain(fleet, waiting) == 0
        assert "waits: 1 full" in capsys.readouterr().out
        fake.is_frozen = False
        assert {status for status, _ in await asyncio.gather(*asked)} == {200}
