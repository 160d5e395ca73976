"""Directed faults: a small platform, a script that says what happens when, and the laws checked as ever.

    world = scenario.play(script, workers=scenario.split())

Every `until` looks often enough to catch a state that lasts a millisecond. Next: `world.py`;
`random_run.py` for histories that nobody wrote down.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from sluice.domain.role import Role
from sluice.domain.sampling import SamplingParams
from sluice.policy.joint import Joint
from sluice.policy.policy import Policy
from sluice.testing.simulation import toy_model
from sluice.testing.simulation.clients import Client
from sluice.testing.simulation.sim_worker import SimWorker, WorkerPlan
from sluice.testing.simulation.weather import CALM, Weather
from sluice.testing.simulation.world import Setting, World

Script = Callable[[World], Coroutine[Any, Any, None]]

CALM_S_MAX: Final = 120.0
WATCH_S: Final = 0.0005
PATIENCE_S: Final = 30.0


def split(*, prefill: int = 1, decode: int = 2, blocks: int = 64) -> tuple[WorkerPlan, ...]:
    """Prefill workers p0, p1 ... and decode workers d0, d1 ..."""
    plans = [WorkerPlan(name=f"p{index}", role=Role.PREFILL, blocks=blocks) for index in range(prefill)]
    return (*plans, *(WorkerPlan(name=f"d{index}", role=Role.DECODE, blocks=blocks) for index in range(decode)))


def play(
    script: Script,
    *,
    workers: tuple[WorkerPlan, ...],
    weather: Weather = CALM,
    routers: int = 1,
    seed: int = 1,
    never_ready: frozenset[str] = frozenset(),
    policy: Callable[[], Policy] = lambda: Joint(split_tokens_min=2),
) -> World:
    """Run `script`, then let everything come to rest. Raises AssertionError with the history if a law is broken.

    It begins when all workers but `never_ready` are ready.
    """

    async def whole(world: World) -> None:
        await script(world)
        if not world.checkers.broken:
            world.calm_down()
            await world.wait_quiet(within_s=CALM_S_MAX)

    setting = Setting(
        seed=seed, workers=workers, routers=routers, weather=weather, never_ready=never_ready, policy=policy
    )
    world = World(setting)
    world.run(whole)
    assert not world.checkers.broken, "\n".join([*world.log_lines, *world.checkers.broken])
    return world


def request(world: World, name: str = "c", *, prompt: int = 80, tokens: int = 40, returns: int = 0) -> Client:
    """A request of so many prompt tokens and, as it never says its end, exactly so many answered ones."""
    return Client(
        name=name,
        prompt=tuple(world.rng.randrange(toy_model.TOKEN_MIN + 1, toy_model.VOCABULARY) for _ in range(prompt)),
        sampling=SamplingParams(max_tokens=tokens, seed=len(world.clients), ignore_eos=True),
        returns=returns,
    )


async def until(world: World, condition: Callable[[], bool]) -> None:
    """Let time pass until `condition` holds; it must, unless a law is broken first."""
    held = await world.wait_until(condition, within_s=PATIENCE_S, look_s=WATCH_S)
    assert held or world.checkers.broken, "\n".join([*world.log_lines, "what the scenario waits for never happened"])


def owner_of(world: World) -> SimWorker:
    """The worker that runs the first sequence in flight."""
    owner = next(flow.owner for _, flow in world.running() if flow.owner is not None)
    return world.workers[owner.name]


def whole(world: World) -> bool:
    """Whether every client got its whole answer."""
    return all(client.is_answered and not client.error for client in world.clients)
