"""What can happen to a platform, at random moments: one coroutine per kind of trouble.

Each kind is there or not in a run, with its own pace, so that runs differ in what they combine.
Ends by itself; the caller then waits for calm. Next: `weather.py` for what happens to messages.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from sluice.domain.role import Role
from sluice.testing.simulation.virtual_loop import Process
from sluice.testing.simulation.world import World
from sluice.wire.gen import sluice_pb2 as pb

Fault = Callable[[World, random.Random], None]

FLIPPED: Final = (Role.PREFILL, Role.DECODE, Role.MIXED)  # encode workers hold another half of the model


def crash_worker(world: World, rng: random.Random) -> None:
    """SIGKILL, or the whole machine goes dark."""
    name = rng.choice(list(world.workers))
    world.crash_worker(name, is_silent=rng.random() < 0.3, restart_s=rng.choice([0.05, 1.0, 8.0]))


def crash_router(world: World, rng: random.Random) -> None:
    """Only where there are two: with one, every client would end."""
    if len(world.routers) > 1:
        world.crash_router(rng.choice(list(world.routers)))


def pause(world: World, rng: random.Random) -> None:
    """SIGSTOP and SIGCONT, briefly or beyond every timeout."""
    world.pause(_any_process(world, rng), rng.choice([0.1, 1.0, 3.0, 6.0, 12.0]) * (0.5 + rng.random()))


def cut(world: World, rng: random.Random) -> None:
    """One direction between two processes is gone for a while."""
    source, target = _any_process(world, rng), _any_process(world, rng)
    if source is not target:
        for_s = rng.choice([0.2, 1.0, 5.0, 10.0]) * (0.5 + rng.random())
        world.log(f"nothing passes from {source.name} to {target.name} for {for_s:.2f} s")
        world.network.cut(source, target, for_s)


def reset(world: World, rng: random.Random) -> None:
    """Connections break for no reason."""
    world.network.break_some(0.3 * rng.random())


def move(world: World, rng: random.Random) -> None:
    """A running request is to move, as a rebalancer or a person would have it."""
    now = [(router, flow) for router, flow in world.running() if flow.can_move]
    if now:
        router, flow = rng.choice(now)
        target = router.dispatcher.targets.elsewhere_for(flow)
        if target is not None:
            world.log(f"sequence {flow.sequence & 0xFFFF} is to move to {target.name}")
            flow.move(target, why="rebalancing", now_s=router.now_s())


def drain(world: World, rng: random.Random) -> None:
    """A worker drains, and later admits again."""
    routers = world.living_routers()
    members = [member for member in rng.choice(routers).dispatcher.fleet if member.is_ready] if routers else []
    if len(members) > 1:
        member = rng.choice(members)
        deadline_s = rng.choice([0.5, 2.0, 10.0])
        world.log(f"{member.name} drains within {deadline_s:g} s")
        member.link.send(pb.RouterMessage(drain=pb.Drain(deadline_s=deadline_s)))
        world.later(rng.choice([1.0, 5.0]), world.resume_worker, member.name)


def flip(world: World, rng: random.Random) -> None:
    """A worker takes another role."""
    worker = world.workers[rng.choice(list(world.workers))]
    if worker.process.is_alive and worker.plan.role is not Role.ENCODE:
        role = rng.choice(FLIPPED)
        world.log(f"{worker.boot} becomes {role.value}")
        worker.shell.standing.set_role(role, instead_of=worker.shell.info.role)


FAULTS: Final[tuple[Fault, ...]] = (crash_worker, crash_router, pause, cut, reset, drain, flip)


async def happen(world: World, *, for_s: float) -> None:
    """Let a random mixture of faults happen for a while, each kind at its own pace."""
    rng = world.rng
    paces = [(fault, rng.choice([0.2, 1.0, 3.0])) for fault in FAULTS if rng.random() < 0.3]
    if rng.random() < 0.6:
        paces.append((move, rng.choice([0.02, 0.1, 0.5])))
    until_s = world.loop.time() + for_s
    await asyncio.gather(asyncio.sleep(for_s), *(_keep(fault, world, pace, until_s) for fault, pace in paces))


async def _keep(fault: Fault, world: World, every_s: float, until_s: float) -> None:
    while not world.checkers.broken:
        await asyncio.sleep(2 * every_s * world.rng.random())
        if world.loop.time() > until_s:
            return
        fault(world, world.rng)


def _any_process(world: World, rng: random.Random) -> Process:
    workers = [worker.process for worker in world.workers.values()]
    return rng.choice([*workers, *(router.process for router in world.routers.values())])
