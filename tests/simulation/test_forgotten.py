"""Sequences that somebody forgets, and workers that must go: what nobody asks about is noticed in bounded time."""

import asyncio

from sluice.domain.ids import SequenceId
from sluice.domain.role import Lifecycle
from sluice.testing.simulation import scenario
from sluice.testing.simulation.scenario import until
from sluice.testing.simulation.sim_router import HEARTBEAT_S
from sluice.testing.simulation.world import World


def test_a_sequence_that_its_living_worker_forgets_goes_on_elsewhere_after_two_heartbeats() -> None:
    async def script(world: World) -> None:
        client = scenario.request(world, tokens=60)
        world.ask(client)
        await until(world, lambda: client.seen_tokens > 10)
        owner = scenario.owner_of(world)
        (sequence,) = owner.shell._live
        owner.shell.drop(SequenceId(sequence))
        seen = client.seen_tokens
        await asyncio.sleep(3.2 * HEARTBEAT_S)
        assert client.seen_tokens > seen + 1

    assert scenario.whole(scenario.play(script, workers=scenario.split()))


def test_a_worker_that_drains_gives_up_orphans_at_its_deadline() -> None:
    """Their router is lost and nobody moves them: they kept the worker draining until their grace was over."""

    async def script(world: World) -> None:
        client = scenario.request(world, tokens=170)
        world.ask(client, "r1")
        await until(world, lambda: client.seen_tokens > 3)
        owner = scenario.owner_of(world)
        world.crash_router("r1")
        await until(world, lambda: len(owner.shell.routers.orphans) == 1)
        started_s = world.loop.time()
        owner.shell.drain(deadline_s=0.8)
        await until(world, lambda: owner.shell.standing.lifecycle is Lifecycle.DRAINED)
        assert 0.7 < world.loop.time() - started_s < 1.0

    scenario.play(script, workers=scenario.split(), routers=2)
