"""A transfer's number never begins again: what the network delivers after its end reserves nothing."""

import asyncio
from collections.abc import Callable

import pytest

from sluice.domain.ids import BootId
from sluice.engine.engine import PagedEngine
from sluice.kv_transfer.lease import LeaseTable
from sluice.testing.simulation import scenario
from sluice.testing.simulation.scenario import until
from sluice.testing.simulation.world import World
from sluice.wire.gen import sluice_pb2 as pb


def overhear(monkeypatch: pytest.MonkeyPatch, world: World, worker: str) -> list[pb.ReserveRequest]:
    """Copies of every Reserve that is not a canary's and reaches `worker`."""
    heard: list[pb.ReserveRequest] = []
    arrivals = world.workers[worker].arrivals
    reserve = arrivals.reserve

    async def overheard(request: pb.ReserveRequest) -> pb.ReserveReply:
        if not request.canary:
            heard.append(request)
        return await reserve(request)

    monkeypatch.setattr(arrivals, "reserve", overheard)
    return heard


async def first_reserve_at_d0(monkeypatch: pytest.MonkeyPatch, world: World) -> pb.ReserveRequest:
    """What the sender of an answered request asked of d0; nobody listens any more."""
    heard = overhear(monkeypatch, world, "d0")
    client = scenario.request(world)
    world.ask(client)
    await until(world, lambda: client.is_answered)
    monkeypatch.undo()
    return heard[0]


def renumbered(first: pb.ReserveRequest, **changed: int) -> pb.ReserveRequest:
    """The same for a transfer and a sequence that nobody has heard of."""
    late = pb.ReserveRequest()
    late.CopyFrom(first)
    late.transfer, late.sequence = first.transfer + 10_000, first.sequence + 10_000
    for name, value in changed.items():
        setattr(late, name, value)
    return late


def test_a_copy_that_comes_after_the_commit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(world: World) -> None:
        first = await first_reserve_at_d0(monkeypatch, world)
        again = await world.workers["d0"].arrivals.reserve(first)
        assert not again.granted
        assert "has ended" in again.refusal

    assert scenario.whole(scenario.play(script, workers=scenario.split(decode=1)))


@pytest.mark.parametrize("farewell_first", [True, False])
def test_a_copy_that_comes_with_or_after_the_farewell_is_refused(
    monkeypatch: pytest.MonkeyPatch, *, farewell_first: bool
) -> None:
    async def script(world: World) -> None:
        first, arrivals = await first_reserve_at_d0(monkeypatch, world), world.workers["d0"].arrivals
        late = renumbered(first, epoch=1)
        goodbye = pb.AbandonRequest(from_boot=first.from_boot, transfer=late.transfer, writes_stopped=True)
        if farewell_first:
            await arrivals.abandon(goodbye)
            answer = await arrivals.reserve(late)
        else:
            shell = world.workers["d0"].shell
            ask = shell.ask

            async def ask_while_the_farewell_comes(question: Callable[[PagedEngine], object]) -> object:
                answered = await ask(question)
                await arrivals.abandon(goodbye)
                return answered

            with monkeypatch.context() as meanwhile:
                meanwhile.setattr(shell, "ask", ask_while_the_farewell_comes)
                answer = await arrivals.reserve(late)
        assert not answer.granted

    assert scenario.whole(scenario.play(script, workers=scenario.split(decode=1)))


def test_a_reserve_that_was_refused_once_is_refused_when_it_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender believed the refusal and will say no farewell."""

    async def script(world: World) -> None:
        first, arrivals = await first_reserve_at_d0(monkeypatch, world), world.workers["d0"].arrivals
        late = renumbered(first, tokens=10**6)
        assert not (await arrivals.reserve(late)).granted
        late.tokens = first.tokens
        assert not (await arrivals.reserve(late)).granted

    assert scenario.whole(scenario.play(script, workers=scenario.split(decode=1)))


def test_a_lease_may_run_out_just_after_its_reservation_was_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several end at once; while the first is let go, the farewell of another comes. The reaper died of it."""

    async def script(world: World) -> None:
        monkeypatch.setattr(LeaseTable, "expire", lambda _table, *, now_s: ((BootId("gone"), int(now_s)),))
        await asyncio.sleep(2.0)
        monkeypatch.undo()

    scenario.play(script, workers=scenario.split(decode=1))
