"""One-sided writes of a process that has died: its blocks wait until somebody can say that it is over."""

import asyncio
from dataclasses import replace

import pytest

from sluice.testing.simulation import scenario
from sluice.testing.simulation.scenario import until
from sluice.testing.simulation.sim_worker import simulated
from sluice.testing.simulation.weather import Weather
from sluice.testing.simulation.world import World

ONE_SIDED_SLOW = Weather(is_one_sided=True, late_push=1.0, late_s=3.0)
LEASE_S = 2.0
WORKERS = tuple(
    replace(plan, transfer=replace(simulated(lease_s=LEASE_S), quarantine_fraction_max=0.9))
    for plan in scenario.split(decode=1)
)


async def kill_a_sender_of_d0(world: World, *, restart_s: float) -> None:
    """p0 dies while it pushes into d0, and d0 takes what it reserved for it out of use."""
    world.ask(scenario.request(world))
    await until(world, lambda: bool(world.workers["p0"].mover.flights) and world.workers["d0"].arrivals.leases > 0)
    world.crash_worker("p0", restart_s=restart_s)
    await until(world, lambda: bool(world.workers["d0"].arrivals.quarantined))


@pytest.mark.parametrize("restart_s", [0.0, 0.5, 4.0])
def test_blocks_of_a_dead_sender_are_used_again_once_its_successor_has_joined(restart_s: float) -> None:
    async def script(world: World) -> None:
        await kill_a_sender_of_d0(world, restart_s=restart_s)
        d0 = world.workers["d0"]
        await until(world, lambda: not d0.arrivals.quarantined)
        assert d0.mover.quarantined_bytes == 0
        assert world.workers["d0"] is d0, "without a restart"

    assert scenario.whole(scenario.play(script, workers=WORKERS, weather=ONE_SIDED_SLOW))


def test_blocks_of_a_dead_sender_without_a_successor_stay_out_of_use() -> None:
    async def script(world: World) -> None:
        await kill_a_sender_of_d0(world, restart_s=300.0)
        await asyncio.sleep(60.0)
        assert world.workers["d0"].arrivals.quarantined

    scenario.play(script, workers=WORKERS, weather=ONE_SIDED_SLOW)


def test_blocks_of_a_sender_that_is_only_silent_stay_out_of_use() -> None:
    """Stopped is not dead: what it goes on to write when it continues must still find nobody's KV there."""

    async def script(world: World) -> None:
        world.ask(scenario.request(world))
        await until(world, lambda: bool(world.workers["p0"].mover.flights) and world.workers["d0"].arrivals.leases > 0)
        world.pause(world.workers["p0"].process, 20.0)
        await until(world, lambda: bool(world.workers["d0"].arrivals.quarantined))
        await asyncio.sleep(10.0)
        assert world.workers["d0"].arrivals.quarantined

    assert scenario.whole(scenario.play(script, workers=WORKERS, weather=ONE_SIDED_SLOW))
