"""`sluice profile --worker`: a running platform's worker is measured from what it reports, under load or none."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.capacity import profile_file, sources
from sluice.capacity.catalogue import gpu_class
from sluice.capacity.model_shape import shape_of
from sluice.capacity.step_model import StepShape
from sluice.cli.fleet_options import DEMO_MODEL
from sluice.cli.gpu_pools import emulated_workers
from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.cli.main import main
from sluice.config.worker import EngineConfig

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SHAPE = "Llama-3.1-8B"


@pytest.fixture(scope="module")
def fleet() -> Iterator[LocalFleet]:
    plan = FleetPlan(
        model_path=DEMO_MODEL,
        model_name=SHAPE,
        engine=EngineConfig(batch_sequences_max=64, step_tokens_max=2048),
        emulate=SHAPE,
        emulated=emulated_workers(["H100:1m"], shape=SHAPE, prices={}),
    )
    with LocalFleet(plan) as running:
        running.wait_ready(lambda _: None)
        yield running


def profile(fleet: LocalFleet, *words: str) -> int:
    return main(["profile", *words, "--grpc", fleet.grpc_address])


async def test_a_loaded_workers_curve_is_found_from_its_heartbeats(fleet: LocalFleet, tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    words = ["--worker", "h100-mixed-0", "--load", "--seconds", "12", "--out", str(path)]
    assert await asyncio.to_thread(profile, fleet, *words) == 0
    seen = profile_file.read(path)
    assert (seen.gpu_class, seen.tensor_parallel) == ("H100", 1)
    true = sources.step_model(gpu_class("H100"), shape_of(SHAPE))
    for shape in (StepShape(decodes=8, context_tokens=8 * 300), StepShape(512, 512 * 256.5, 1)):
        ratio = seen.curve.step_s(shape) / true.step_s(shape)
        assert 0.5 < ratio < 3.0, "of its class; a busy machine makes steps longer"


async def test_a_worker_that_does_nothing_and_one_that_is_not_there_are_said_so(
    fleet: LocalFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(profile, fleet, "--worker", "h100-mixed-0", "--seconds", "0.5") == 1
    assert "steps; send it requests meanwhile, or use --load" in capsys.readouterr().err
    assert await asyncio.to_thread(profile, fleet, "--worker", "nobody") == 1
    assert "--worker: 'nobody' is not connected; use one of: h100-mixed-0" in capsys.readouterr().err
