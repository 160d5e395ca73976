"""Two routers give one worker two roles within a heartbeat: it takes one, and both know which."""

import asyncio

import pytest

from sluice.domain.role import Lifecycle, Role
from sluice.router.flips import RoleChange, Stage
from sluice.testing.simulation import scenario
from sluice.testing.simulation.scenario import until
from sluice.testing.simulation.world import World

APART_S = (0.0, 0.0003, 0.001, 0.004, 0.02, 0.1, 0.3)


def begin(world: World, router: str, worker: str, role: Role) -> RoleChange:
    dispatcher = world.routers[router].dispatcher
    (member,) = [member for member in dispatcher.fleet if member.name == worker]
    return dispatcher.flips.begin(member, role, deadline_s=10.0, why="test", now_s=dispatcher._clock.now_s())


@pytest.mark.parametrize(
    ("worker", "roles"),
    [
        ("p0", (Role.DECODE, Role.MIXED)),
        ("p0", (Role.MIXED, Role.DECODE)),
        ("d0", (Role.PREFILL, Role.MIXED)),
        ("d0", (Role.PREFILL, Role.PREFILL)),
    ],
)
def test_one_of_two_flips_wins_and_the_other_fails_by_name(worker: str, roles: tuple[Role, Role]) -> None:
    for apart_s in APART_S:

        async def script(world: World, apart_s: float = apart_s) -> None:
            for number in range(6):
                world.ask(scenario.request(world, f"c{number}", tokens=60), f"r{number % 2}")
            await asyncio.sleep(0.05)
            first = begin(world, "r0", worker, roles[0])
            await asyncio.sleep(apart_s)
            second = begin(world, "r1", worker, roles[1])
            await until(world, lambda: first.over.is_set() and second.over.is_set())
            subject = world.workers[worker].shell
            await until(world, lambda: subject.standing.lifecycle is Lifecycle.READY)
            if second.before is first.role:
                return  # one after the other
            for flip in (first, second):
                is_won = flip.role is subject.info.role
                assert (flip.stage is Stage.DONE) == is_won, flip
                assert is_won or "another router has made it" in flip.problem or "somebody else" in flip.problem

        assert scenario.whole(scenario.play(script, workers=scenario.split(prefill=2), routers=2))


@pytest.mark.parametrize("late_s", [0.0, 0.0002, 0.0005, 0.001])
def test_an_order_that_was_given_for_an_older_role_is_refused(late_s: float) -> None:
    """The second router speaks when the first one's word is on its way: it still believes in the old role."""

    async def script(world: World) -> None:
        first = begin(world, "r0", "p0", Role.DECODE)
        await until(world, lambda: first.stage is Stage.TURNING)
        await asyncio.sleep(late_s)
        second = begin(world, "r1", "p0", Role.MIXED)
        assert second.before is Role.PREFILL
        await until(world, lambda: first.over.is_set() and second.over.is_set())
        assert {first.stage, second.stage} == {Stage.DONE, Stage.FAILED}
        winner = first if first.stage is Stage.DONE else second
        assert world.workers["p0"].shell.info.role is winner.role

    scenario.play(script, workers=scenario.split(prefill=2), routers=2)
