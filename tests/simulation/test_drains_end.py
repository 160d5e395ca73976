"""A drain ends when nothing is left, whatever ended last: scenario 17 of docs/faults.md, in another order of events."""

import asyncio

from sluice.domain.role import Lifecycle
from sluice.testing.simulation import scenario
from sluice.testing.simulation.scenario import until
from sluice.testing.simulation.weather import CALM, Weather
from sluice.testing.simulation.world import World

WEATHERS = (CALM, Weather(late_push=1.0, late_s=1.0), Weather(jitter_s=0.05))


def test_17_a_prefill_worker_drains_though_its_decode_worker_leaves_with_it() -> None:
    """The last handoff used to count as open when it had just ended: the worker drained for ever."""

    async def script(world: World) -> None:
        for number in range(30):
            world.ask(scenario.request(world, f"c{number}", prompt=40 + 7 * (number % 9), tokens=20 + number))
        await asyncio.sleep(0.2 * world.rng.random())
        source, target = world.workers["p0"], world.workers["d0"]
        target.shell.drain(deadline_s=20.0)
        await asyncio.sleep(0.3 * world.rng.random())
        source.shell.drain(deadline_s=20.0)
        await until(world, lambda: target.shell.standing.lifecycle is Lifecycle.DRAINED)
        world.crash_worker("d0")
        await until(world, lambda: source.shell.standing.lifecycle is Lifecycle.DRAINED)

    for seed in (1, 2, 3, 4):
        workers = scenario.split(prefill=2, decode=2, blocks=200)
        assert scenario.whole(scenario.play(script, workers=workers, seed=seed, weather=WEATHERS[seed % 3]))
