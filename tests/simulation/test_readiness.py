"""Readiness tells the truth (law L10): links are probed before they are used; what fails is left out, with a reason."""

import asyncio
from dataclasses import replace

import pytest

from sluice.domain.load import LinkLoad
from sluice.domain.role import Role
from sluice.engine.contract import StepReport
from sluice.engine.engine import PagedEngine
from sluice.testing.simulation import scenario
from sluice.testing.simulation.scenario import until
from sluice.testing.simulation.sim_worker import WorkerPlan, simulated
from sluice.testing.simulation.world import World
from sluice.worker.canary import Canary
from sluice.worker.probing import Prober


def link(world: World, source: str, target: str) -> LinkLoad:
    return next(one for one in world.workers[source].shell.load().links if one.peer == target)


def test_every_link_is_probed_before_the_platform_is_ready() -> None:
    async def script(world: World) -> None:
        for source, target in (("p0", "d0"), ("p0", "d1"), ("d0", "d1"), ("d1", "d0")):
            probed = link(world, source, target)
            assert probed.probe_age_s is not None
            assert probed.probe_gb_per_s > 0
            assert not probed.problem
            assert probed.peer_boot == world.workers[target].boot
        assert not world.workers["d0"].leftovers()

    scenario.play(script, workers=scenario.split())


def test_no_worker_is_ready_before_it_has_heard_who_its_peers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was ready for want of peers, then not ready for want of probes: requests in between were refused."""
    flips: list[tuple[str, bool]] = []
    announce = Prober._announce

    def heard(prober: Prober) -> None:
        announce(prober)
        shell = prober._around.shell
        flips.append((shell.info.worker, not shell.unready()))

    monkeypatch.setattr(Prober, "_announce", heard)

    async def script(world: World) -> None:
        for name in world.workers:
            changes = [is_ready for worker, is_ready in flips if worker == name]
            assert changes == sorted(changes)
        await asyncio.sleep(0)

    scenario.play(script, workers=scenario.split())


def test_a_mixed_worker_is_ready_alone() -> None:
    async def script(world: World) -> None:
        world.ask(scenario.request(world))

    assert scenario.whole(scenario.play(script, workers=(WorkerPlan(name="only", role=Role.MIXED),)))


def test_a_link_that_breaks_is_suspected_probed_and_not_used_until_it_is_whole_again() -> None:
    async def script(world: World) -> None:
        p0, d0 = world.workers["p0"].process, world.workers["d0"].process
        world.network.cut(p0, d0, 60.0)
        for number in range(6):
            world.ask(scenario.request(world, f"c{number}"))
        await until(world, lambda: bool(link(world, "p0", "d0").problem))
        assert not world.workers["p0"].shell.unready()
        (router,) = world.routers.values()
        await until(world, lambda: any(one.problem for m in router.dispatcher.fleet for one in m.load.links))
        late = scenario.request(world, "late")
        world.ask(late)
        await until(world, lambda: late.is_answered)
        (record,) = [r for r in router.dispatcher.records.latest(request=None, limit=9) if r.request == "late"]
        assert record.decode_worker == "d1"
        assert record.migrations == 0
        world.network.heal()
        await until(world, lambda: not link(world, "p0", "d0").problem)

    assert scenario.whole(scenario.play(script, workers=scenario.split()))


def test_when_no_decode_worker_can_be_reached_both_sides_say_that_they_are_not_ready() -> None:
    async def script(world: World) -> None:
        world.network.cut(world.workers["p0"].process, world.workers["d0"].process, 200.0)
        world.workers["p0"].shell.fabric.suspect(world.workers["d0"].boot)
        await until(world, lambda: bool(world.workers["p0"].shell.unready()))
        (reason,) = world.workers["p0"].shell.unready()
        assert reason.startswith("no worker to send to can be reached (d0: ")
        (router,) = world.routers.values()
        await until(world, lambda: {m.name for m in router.dispatcher.fleet if m.is_ready} == {"d0"})
        await asyncio.sleep(100.0)
        assert world.workers["d0"].shell.unready() == ["no prefill worker has reached this worker (p0)"]
        assert router.dispatcher.door.unready()
        world.network.heal()
        await until(world, lambda: not router.dispatcher.door.unready())

    scenario.play(script, workers=scenario.split(decode=1))


def test_a_worker_that_computes_wrongly_is_found_by_its_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """d0 answers requests with other tokens than everyone else: no link to it is used, and it is not ready."""
    step = PagedEngine.step

    def wrong(engine: PagedEngine) -> StepReport:
        report = step(engine)
        is_broken = engine.geometry.blocks == 63
        return replace(report, tokens=tuple(replace(out, token=out.token ^ is_broken) for out in report.tokens))

    monkeypatch.setattr(PagedEngine, "step", wrong)

    async def script(world: World) -> None:
        assert "canary" in link(world, "p0", "broken").problem
        world.ask(scenario.request(world))

    workers = (
        WorkerPlan(name="p0", role=Role.PREFILL),
        WorkerPlan(name="broken", role=Role.DECODE, blocks=63),
        WorkerPlan(name="d0", role=Role.DECODE),
    )
    assert scenario.whole(scenario.play(script, workers=workers, never_ready=frozenset({"broken"})))


def test_a_worker_whose_engine_cannot_answer_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Canary.answer_alone

    async def fail(canary: Canary) -> None:
        await answer(canary)
        if canary._request.startswith("canary of d0"):
            canary.tokens, canary.problem = (), "the canary failed: the device is lost"

    monkeypatch.setattr(Canary, "answer_alone", fail)
    monkeypatch.setattr("sluice.worker.probing.log.error", lambda *_: None)

    async def script(world: World) -> None:
        assert world.workers["d0"].shell.unready() == ["the canary failed: the device is lost"]
        world.ask(scenario.request(world))

    assert scenario.whole(scenario.play(script, workers=scenario.split(), never_ready=frozenset({"d0"})))


def test_a_peer_without_room_for_a_wide_probe_is_probed_with_one_block() -> None:
    wide = replace(simulated(lease_s=6.0), probe_mib=1)
    small = WorkerPlan(name="d0", role=Role.DECODE, blocks=3, transfer=wide)
    workers = (WorkerPlan(name="p0", role=Role.PREFILL, transfer=wide), small)

    async def script(world: World) -> None:
        assert link(world, "p0", "d0").probe_age_s is not None
        assert not link(world, "p0", "d0").problem

    scenario.play(script, workers=workers)
