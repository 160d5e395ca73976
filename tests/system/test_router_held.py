"""A router without workers that holds requests: they are answered when one has come, and bad ones at once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from sluice.config.router import AdmissionConfig
from sluice.domain.role import Role
from sluice.testing.fake_fleet import FakeFleet, running_fleet
from sluice.testing.fake_worker import FakeSettings
from sluice.testing.tiny_tokenizer import make_model_directory

BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[FakeFleet]:
    admission = AdmissionConfig(hold_s=60.0, held_requests_max=2)
    async with running_fleet(make_model_directory(tmp_path), roles=(), admission=admission) as running:
        yield running


async def test_held_requests_are_answered_when_a_worker_has_come_and_bad_ones_at_once(fleet: FakeFleet) -> None:
    door = fleet.router.dispatcher.door
    async with aiohttp.ClientSession(base_url=fleet.url) as http:
        async with http.get("/readyz") as ready:
            assert ready.status == 200, "it takes requests"
        waiting = [asyncio.create_task(http.post("/v1/completions", json=BODY)) for _ in range(2)]
        await fleet.wait_until(lambda: door.held == 2)
        async with http.post("/v1/completions", json={**BODY, "model": "other"}) as wrong:
            assert wrong.status == 404
        async with http.post("/v1/completions", json=BODY) as too_many:
            assert (too_many.status, "Retry-After" in too_many.headers) == (429, True)
        fleet.router.dispatcher.tick()
        async with http.get("/metrics") as metrics:
            assert "sluice_held_requests 2" in await metrics.text()
        await fleet.add(FakeSettings(worker="mixed-0", role=Role.MIXED))
        answers = await asyncio.gather(*waiting)
        assert [answer.status for answer in answers] == [200, 200]
        for answer in answers:
            answer.release()
    await fleet.wait_until(lambda: fleet.is_idle)
    assert door.held == 0
