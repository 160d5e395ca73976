"""One random history: a platform, its load, its weather and its faults, all drawn from a seed.

After the faults everything is healed, and within bounded time every request must have ended and
nothing may be held anywhere. Next: `world.py`; `__main__.py` runs many.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from sluice.domain.role import Role
from sluice.domain.sampling import SamplingParams
from sluice.engine.contract import EngineLimits
from sluice.policy.joint import Joint
from sluice.policy.policy import Policy
from sluice.router.output import Delivery
from sluice.testing.simulation import faults, toy_model, weather
from sluice.testing.simulation.clients import Client, with_pictures
from sluice.testing.simulation.restless import Restless
from sluice.testing.simulation.sim_worker import WorkerPlan, simulated
from sluice.testing.simulation.world import Setting, World

CALM_S_MAX: Final = 150.0
"""Requests may wait 60 s for their deadline; what they held may wait for its lease and for a queue."""

TOKENS_MAX: Final = 320  # of a sequence, prompt and output

PICTURES: Final = 9
"""That clients choose from: some are in several prompts."""

RESTLESS_SHARE: Final = 0.4  # of the seeds: their policy moves and flips at random

PACED_SHARE: Final = 0.25  # of the seeds: migrations rest between pieces, as they do in production
TOPOLOGIES: Final = (
    (Role.PREFILL, Role.DECODE),
    (Role.MIXED, Role.MIXED),
    (Role.PREFILL, Role.DECODE, Role.DECODE),
    (Role.PREFILL, Role.PREFILL, Role.DECODE, Role.DECODE),
    (Role.MIXED, Role.MIXED, Role.MIXED),
    (Role.PREFILL, Role.DECODE, Role.MIXED),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one seed led to. `broken` is empty when every law held."""

    seed: int
    broken: tuple[str, ...]
    log: tuple[str, ...]
    answered: int
    clients: int
    virtual_s: float


def setting_of(seed: int, *, sees: bool = False) -> Setting:
    """The platform and weather of a seed; with `sees` it has encode workers, and all others read images."""
    rng = random.Random(f"setting {seed}")
    sky = weather.draw(rng)
    checksums: Literal["always", "off"] = "always" if rng.random() < 0.5 else "off"
    batch, budget = rng.choice([2, 4, 8]), rng.choice([24, 64])
    copy_share = 0.05 if random.Random(f"pace {seed}").random() > 1.0 - PACED_SHARE else 1.0
    plans = tuple(
        _plan(index, role, rng, batch=batch, budget=budget, checksums=checksums, copy_share=copy_share)
        for index, role in enumerate(rng.choice(TOPOLOGIES))
    )
    if sees:
        plans = (*(replace(plan, image_blocks=rng.choice([16, 40])) for plan in plans), *_encoders(rng, plans[0]))
    return Setting(
        seed=seed,
        workers=plans,
        routers=rng.choice([1, 1, 2]),
        weather=sky,
        policy=_policy(rng, seed),
    )


def _encoders(rng: random.Random, like: WorkerPlan) -> tuple[WorkerPlan, ...]:
    limits = EngineLimits(
        batch_sequences_max=rng.choice([2, 8]), step_tokens_max=rng.choice([24, 200]), sequence_tokens_max=256
    )
    return tuple(
        WorkerPlan(
            name=f"e{index}", role=Role.ENCODE, blocks=rng.choice([8, 20]), limits=limits, transfer=like.transfer
        )
        for index in range(rng.choice([1, 2, 3]))
    )


def _policy(rng: random.Random, seed: int) -> Callable[[], Policy]:
    split_tokens_min = rng.choice([1, 1, 30])
    if random.Random(f"tend {seed}").random() < RESTLESS_SHARE:
        return lambda: Restless(seed, split_tokens_min=split_tokens_min)
    return lambda: Joint(split_tokens_min=split_tokens_min)


def _plan(
    index: int,
    role: Role,
    rng: random.Random,
    *,
    batch: int,
    budget: int,
    checksums: Literal["always", "off"],
    copy_share: float,
) -> WorkerPlan:
    blocks, block_tokens = rng.choice([12, 20, 40]), rng.choice([16, 16, 32])
    longest = min(TOKENS_MAX, blocks * block_tokens)
    return WorkerPlan(
        name=f"w{index}",
        role=role,
        blocks=blocks,
        block_tokens=block_tokens,
        limits=EngineLimits(batch_sequences_max=batch, step_tokens_max=budget, sequence_tokens_max=longest),
        transfer=simulated(lease_s=rng.choice([2.0, 6.0]), checksums=checksums, copy_share=copy_share),
    )


def run(seed: int, *, sees: bool = False) -> Result:
    """The whole history of a seed; equal seeds give equal histories. With `sees` prompts have pictures."""
    world = World(setting_of(seed, sees=sees))
    world.run(_history_with_pictures if sees else _history)
    return Result(
        seed=seed,
        broken=tuple(world.checkers.broken),
        log=tuple(world.log_lines),
        answered=sum(client.is_answered for client in world.clients),
        clients=len(world.clients),
        virtual_s=world.loop.time(),
    )


async def _history_with_pictures(world: World) -> None:
    await _history(world, pictures=[bytes([number, world.setting.seed % 256]) for number in range(PICTURES)])


async def _history(world: World, *, pictures: Sequence[bytes] = ()) -> None:
    rng = world.rng
    for_s = rng.choice([1.0, 3.0, 8.0])
    trouble = asyncio.create_task(faults.happen(world, for_s=for_s), name="faults")
    shared = tuple(rng.randrange(11, toy_model.VOCABULARY) for _ in range(48))
    for number in range(rng.randrange(2, 9)):
        await asyncio.sleep(rng.random() * for_s / 6)
        client = _client(number, shared, rng)
        if pictures:
            _show(client, rng.sample(pictures, rng.choice([0, 1, 2, 4])), rng)
        world.ask(client, rng.choice(list(world.routers)))
    await trouble
    if not world.checkers.broken:
        world.calm_down()
        await world.wait_quiet(within_s=CALM_S_MAX)


def _show(client: Client, files: Sequence[bytes], rng: random.Random) -> None:
    """The client's prompt has these pictures before most of its words."""
    client.prompt, client.images = with_pictures(client.prompt[:50], files[: len(client.prompt)])
    client.files = tuple(files[: len(client.images)])
    client.names = rng.random() < 0.3
    client.sampling = replace(client.sampling, max_tokens=min(client.sampling.max_tokens, 40))


def _client(number: int, shared: tuple[int, ...], rng: random.Random) -> Client:
    length = rng.choice([1, 5, 16, 33, 70, 110])
    own = tuple(rng.randrange(11, toy_model.VOCABULARY) for _ in range(length))
    prompt = (*shared, *own) if rng.random() < 0.3 else own
    max_tokens = rng.choice([1, 2, 10, 60, 120])
    return Client(
        name=f"c{number}",
        prompt=prompt,
        sampling=SamplingParams(max_tokens=max_tokens, seed=rng.randrange(1000), ignore_eos=rng.random() < 0.5),
        returns=rng.choice([0, 5]),
        n=rng.choice([1, 1, 1, 2]),
        timeout_s=rng.choice([5.0, 60.0, 60.0]),
        abort_after=rng.randrange(max_tokens) if rng.random() < 0.2 else None,
        delivery=rng.choice([Delivery.EACH_STEP, Delivery.EACH_STEP, Delivery.AT_END]),
    )
