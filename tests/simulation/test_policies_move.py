"""Policies that move and flip while requests run: every token is what it would have been, nothing is left behind."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from sluice.domain.role import Role
from sluice.policy.fleet_table import FleetTable
from sluice.policy.llumnix import Llumnix
from sluice.policy.policy import Ask, Placed, Policy, Unplaced
from sluice.policy.round_robin import RoundRobin
from sluice.policy.xllm import Xllm
from sluice.testing.simulation import scenario
from sluice.testing.simulation.restless import Restless
from sluice.testing.simulation.scenario import request
from sluice.testing.simulation.sim_worker import WorkerPlan
from sluice.testing.simulation.world import World


class Scattered(Llumnix):
    """Places by turns, so that there is something to consolidate."""

    def __init__(self) -> None:
        self._turns = RoundRobin()

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        return self._turns.place(ask, fleet, cached_tokens, now_s=now_s)


def mixed(count: int) -> tuple[WorkerPlan, ...]:
    return tuple(WorkerPlan(name=f"m{index}", role=Role.MIXED) for index in range(count))


def play(policy: Callable[[], Policy], *, workers: tuple[WorkerPlan, ...], seed: int = 1, clients: int = 5) -> World:
    """A few clients, one after the other; the laws and every token are checked by the world."""

    async def script(world: World) -> None:
        for number in range(clients):
            world.ask(request(world, f"c{number}", prompt=30 + 20 * number, tokens=120))
            await asyncio.sleep(0.3)
        await scenario.until(world, lambda: all(client.is_over for client in world.clients))
        assert scenario.whole(world)

    return scenario.play(script, workers=workers, policy=policy, seed=seed)


def moves_of(world: World) -> list[str]:
    records = world.routers["r0"].dispatcher.records.latest(request=None, limit=100)
    return [move.why for record in records for move in record.moves if move.how == "migrated"]


@pytest.mark.parametrize("seed", range(8))
def test_moves_and_flips_without_reason_change_no_token(seed: int) -> None:
    world = play(lambda: Restless(seed), workers=(*scenario.split(), *mixed(1)), seed=seed)
    assert any("for no reason" in why for why in moves_of(world))


def test_llumnix_packs_sequences_onto_few_workers_while_they_run() -> None:
    world = play(Scattered, workers=mixed(3))
    assert any(why.startswith("consolidate") for why in moves_of(world))


def test_xllm_turns_idle_decode_workers_into_prefill_workers_and_leaves_one() -> None:
    world = play(Xllm, workers=scenario.split(prefill=1, decode=3))
    roles = [worker.shell.standing.info.role for worker in world.workers.values()]
    assert roles.count(Role.PREFILL) >= 2
    assert Role.DECODE in roles
