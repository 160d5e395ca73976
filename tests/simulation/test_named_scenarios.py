"""The fault scenarios of docs/faults.md by name: no token is lost, repeated or changed, and nothing stays held."""

import asyncio
from dataclasses import replace

import pytest

from sluice.config.worker import TransferConfig
from sluice.domain.role import Lifecycle, Role
from sluice.engine.contract import EngineLimits
from sluice.testing.simulation import scenario
from sluice.testing.simulation.scenario import until
from sluice.testing.simulation.sim_worker import WorkerPlan, simulated
from sluice.testing.simulation.weather import Weather
from sluice.testing.simulation.world import World
from sluice.wire.gen import sluice_pb2 as pb

SLOW_PUSHES = Weather(late_push=1.0, late_s=1.0)
MOMENTS_S = [0.004 * step for step in range(45)]  # from before the first step to well into decoding


def pushing(world: World) -> bool:
    return any(worker.mover.flights for worker in world.workers.values())


def move(world: World, to: str) -> None:
    """Ask for a move of the first sequence in flight."""
    router, flow = world.running()[0]
    target = next(member for member in router.dispatcher.fleet if member.name == to)
    flow.move(target, why="test", now_s=router.now_s())


def records(world: World) -> list[pb.RequestRow]:
    (router,) = world.routers.values()
    return [record.to_wire(now_s=router.now_s()) for record in router.dispatcher.records.latest(request=None, limit=99)]


# ---------------------------------------------------------------- 1, 2, 3, 4, 10: processes die


def test_01_decode_worker_killed_in_mid_stream() -> None:
    async def script(world: World) -> None:
        client = scenario.request(world)
        world.ask(client)
        await until(world, lambda: client.seen_tokens > 10)
        world.crash_worker(scenario.owner_of(world).plan.name)

    world = scenario.play(script, workers=scenario.split())
    assert scenario.whole(world)
    assert [move.how for row in records(world) for move in row.moves] == ["recomputed"]


def test_02_decode_worker_killed_between_the_last_byte_and_its_first_token() -> None:
    async def script(world: World) -> None:
        client = scenario.request(world)
        world.ask(client)
        decoders = [world.workers["d0"], world.workers["d1"]]
        await until(world, lambda: any(worker.shell.live_sequences for worker in decoders))
        assert client.seen_tokens <= 1
        world.crash_worker(next(worker.plan.name for worker in decoders if worker.shell.live_sequences))

    assert scenario.whole(scenario.play(script, workers=scenario.split()))


@pytest.mark.parametrize("victim", ["p0", "d0"])
def test_03_and_10_a_worker_dies_in_the_middle_of_a_transfer(victim: str) -> None:
    """As a transport's segmentation fault ends it: engine, transport and process in one moment."""

    async def script(world: World) -> None:
        world.ask(scenario.request(world))
        await until(world, lambda: pushing(world))
        world.crash_worker(victim)

    assert scenario.whole(scenario.play(script, workers=scenario.split(decode=1), weather=SLOW_PUSHES))


@pytest.mark.parametrize("victim", ["p0", "d0", "d1"])
def test_any_worker_may_die_at_any_moment_of_a_request(victim: str) -> None:
    """What a peer had begun for the dead one is carried out whole: half a reservation would be nobody's."""
    for moment_s in MOMENTS_S:

        async def script(world: World, at_s: float = moment_s) -> None:
            world.ask(scenario.request(world))
            await asyncio.sleep(at_s)
            world.crash_worker(victim)

        assert scenario.whole(scenario.play(script, workers=scenario.split()))


@pytest.mark.parametrize("victim", ["p0", "d0"])
def test_04_a_worker_restarts_at_the_same_address_within_a_blink(victim: str) -> None:
    async def script(world: World) -> None:
        for number in range(4):
            world.ask(scenario.request(world, f"c{number}"))
        await until(world, lambda: pushing(world))
        before = world.workers[victim].boot
        world.crash_worker(victim, restart_s=0.0)
        await until(world, lambda: world.workers[victim].boot != before)
        world.ask(scenario.request(world, "late"))

    assert scenario.whole(scenario.play(script, workers=scenario.split(decode=1), weather=SLOW_PUSHES))


# ---------------------------------------------------------------- 5, 6, 8, 9: the network and the clocks


@pytest.mark.parametrize("path", [("p0", "d0"), ("d0", "p0"), ("d0", "r0"), ("r0", "d0")])
@pytest.mark.parametrize("for_s", [1.0, 9.0])
def test_05_one_way_partition(path: tuple[str, str], for_s: float) -> None:
    async def script(world: World) -> None:
        client = scenario.request(world)
        world.ask(client)
        await until(world, lambda: pushing(world) or client.seen_tokens > 0)
        processes = {one.process.name: one.process for one in (*world.workers.values(), *world.routers.values())}
        world.network.cut(processes[path[0]], processes[path[1]], for_s)
        world.ask(scenario.request(world, "meanwhile"))
        await asyncio.sleep(for_s + 1.0)

    assert scenario.whole(scenario.play(script, workers=scenario.split(), weather=SLOW_PUSHES))


@pytest.mark.parametrize("seed", range(8))
def test_06_control_messages_twice_late_and_out_of_order(seed: int) -> None:
    async def script(world: World) -> None:
        for number in range(5):
            world.ask(scenario.request(world, f"c{number}"))
            await asyncio.sleep(0.05)
        for _ in range(20):
            await asyncio.sleep(0.05)
            for router, flow in world.running():
                if flow.can_move and (target := router.dispatcher.targets.elsewhere_for(flow)) is not None:
                    flow.move(target, why="test", now_s=router.now_s())

    storm = Weather(duplicate=0.5, jitter_s=0.05, spike=0.2, spike_s=0.5)
    assert scenario.whole(scenario.play(script, workers=scenario.split(prefill=2), weather=storm, seed=seed))


def test_08_lease_expires_at_a_slow_peer_and_its_bytes_land_late() -> None:
    """One-sided writes: nothing stops them. The blocks stay out of use until the sender says that it has stopped."""

    async def script(world: World) -> None:
        world.ask(scenario.request(world))
        await until(world, lambda: pushing(world))
        sender = next(worker for worker in world.workers.values() if worker.mover.flights)
        receivers = [world.workers["d0"], world.workers["d1"]]
        world.pause(sender.process, 10.0)
        await until(world, lambda: any(receiver.mover.quarantined_bytes for receiver in receivers))
        for number in range(6):
            world.ask(scenario.request(world, f"more{number}", prompt=60))
        await asyncio.sleep(12.0)

    workers = tuple(
        replace(plan, transfer=TransferConfig(lease_s=2.0, checksums="off", quarantine_fraction_max=0.9))
        for plan in scenario.split(prefill=2)
    )
    weather = Weather(is_one_sided=True, late_push=1.0, late_s=15.0)
    assert scenario.whole(scenario.play(script, workers=workers, weather=weather, seed=3))


@pytest.mark.parametrize("seed", range(4))
def test_09_clocks_half_a_minute_apart_and_ten_percent_off(seed: int) -> None:
    """Durations cross the wire, timestamps never: a two-second lease outlives any of this while it is renewed."""

    async def script(world: World) -> None:
        for number in range(4):
            world.ask(scenario.request(world, f"c{number}"))
        await asyncio.sleep(8.0)

    workers = tuple(replace(plan, transfer=TransferConfig(lease_s=2.0)) for plan in scenario.split())
    weather = Weather(skew_s=30.0, drift=0.1, late_push=0.5, late_s=3.0)
    world = scenario.play(script, workers=workers, weather=weather, seed=seed)
    assert scenario.whole(world)
    assert all(not row.moves for row in records(world))


# ---------------------------------------------------------------- 7, 13: clients and routers go


def test_07_client_aborts_in_every_state() -> None:
    for moment_s in MOMENTS_S:

        async def script(world: World, at_s: float = moment_s) -> None:
            client = scenario.request(world)
            world.ask(client)
            await asyncio.sleep(at_s)
            for router, flow in world.running():
                router.dispatcher.release(flow.request)
            client.error = client.error or "aborted"

        async def hang_up(world: World, at_s: float = moment_s) -> None:
            await script(world, at_s)
            world.clients.clear()  # nobody reads the rest

        scenario.play(hang_up, workers=scenario.split())


@pytest.mark.parametrize("returns", [0, 3])
def test_13_router_crash_with_streams_in_flight(returns: int) -> None:
    """A client that comes back to any router gets the rest; what nobody comes back for is let go."""

    async def script(world: World) -> None:
        clients = [scenario.request(world, f"c{number}", tokens=60, returns=returns) for number in range(4)]
        for number, client in enumerate(clients):
            world.ask(client, f"r{number % 2}")
        await until(world, lambda: all(client.seen_tokens > 3 for client in clients))
        world.crash_router("r0")

    world = scenario.play(script, workers=scenario.split(), routers=2)
    assert scenario.whole(world) == bool(returns)
    assert all(client.is_answered for client in world.clients[1::2])


# ---------------------------------------------------------------- 11, 12: links that are slow, workers that do not fit


def test_11_a_fabric_that_silently_falls_back_is_noticed_named_and_not_used() -> None:
    """Nothing fails, bytes only take a thousand times longer: the next probe says so, and requests go elsewhere."""

    async def script(world: World) -> None:
        p0, d0 = world.workers["p0"], world.workers["d0"]
        before = next(one for one in p0.shell.load().links if one.peer == "d0")
        assert not before.problem
        world.network.slow_bytes_per_s["p0", "d0"] = 2_000.0
        (router,) = world.routers.values()

        def seen_slow() -> bool:
            links = [link for member in router.dispatcher.fleet for link in member.load.links]
            return any(link.peer == "d0" and "below the floor" in link.problem for link in links)

        assert await world.wait_until(seen_slow, within_s=60.0)
        asked_s = world.loop.time()
        for number in range(4):
            world.ask(scenario.request(world, f"c{number}"))
        await until(world, lambda: all(client.is_answered for client in world.clients))
        assert world.loop.time() - asked_s < 3.0
        assert {row.decode_worker for row in records(world)} == {"d1"}
        assert not p0.shell.unready()
        assert d0.shell.standing.admits_work
        world.network.heal()
        assert await world.wait_until(lambda: not seen_slow(), within_s=60.0)

    floored = replace(simulated(lease_s=6.0), floor_gb_per_s=2e-5)
    workers = tuple(replace(plan, transfer=floored) for plan in scenario.split())
    assert scenario.whole(scenario.play(script, workers=workers))


def test_12_workers_whose_layouts_do_not_fit_refuse_each_other() -> None:
    """Blocks of 32 and 48 tokens: the handshake says so, the worker nobody can reach is not ready, the others serve."""

    async def script(world: World) -> None:
        for number in range(4):
            world.ask(scenario.request(world, f"c{number}"))
        (router,) = world.routers.values()
        await asyncio.sleep(2.0)  # a heartbeat after it was told who its peers are
        beats = {member.name: member.load for member in router.dispatcher.fleet}
        assert beats["odd"].unready == ("no prefill worker has reached this worker (p0)",)
        problems = {link.peer: link.problem for link in beats["p0"].links}
        assert "block" in problems["odd"]
        assert not problems["d0"]

    workers = (
        WorkerPlan(name="p0", role=Role.PREFILL, block_tokens=32),
        WorkerPlan(name="odd", role=Role.DECODE, block_tokens=48),
        WorkerPlan(name="d0", role=Role.DECODE, block_tokens=32),
    )
    world = scenario.play(script, workers=workers, never_ready=frozenset({"odd"}))
    assert scenario.whole(world)
    assert {row.decode_worker for row in records(world)} == {"d0"}


def test_12_workers_with_blocks_of_other_sizes_exchange_kv() -> None:
    async def script(world: World) -> None:
        for number in range(6):
            world.ask(scenario.request(world, f"c{number}", prompt=20 + 13 * number))

    workers = (
        WorkerPlan(name="p0", role=Role.PREFILL, block_tokens=32),
        WorkerPlan(name="d0", role=Role.DECODE, block_tokens=16),
    )
    world = scenario.play(script, workers=workers)
    assert scenario.whole(world)
    assert any(row.handoff_s for row in records(world))


# ---------------------------------------------------------------- 16, 17: workers leave


@pytest.mark.parametrize("notice_s", [3.0, 30.0])
def test_16_spot_notice(notice_s: float) -> None:
    """The machine goes when the notice runs out; by then nothing is on it."""

    async def script(world: World) -> None:
        clients = [scenario.request(world, f"c{number}", tokens=100) for number in range(6)]
        for client in clients:
            world.ask(client)
        await until(world, lambda: all(client.seen_tokens > 5 for client in clients))
        doomed = scenario.owner_of(world)
        doomed.shell.standing.drain(deadline_s=notice_s)
        doomed.shell.note_empty()
        started_s = world.loop.time()
        await until(world, lambda: doomed.shell.standing.lifecycle is Lifecycle.DRAINED)
        assert world.loop.time() - started_s < notice_s
        world.crash_worker(doomed.plan.name, is_silent=True, restart_s=100.0)

    world = scenario.play(script, workers=scenario.split())
    assert scenario.whole(world)
    assert {move.how for row in records(world) for move in row.moves} == {"migrated"}


def test_17_drain_while_a_hundred_transfers_are_open() -> None:
    limits = EngineLimits(batch_sequences_max=120, step_tokens_max=256, sequence_tokens_max=128)

    async def script(world: World) -> None:
        for number in range(100):
            world.ask(scenario.request(world, f"c{number}", prompt=60, tokens=40))
        drained = world.workers["d0"]
        await until(world, lambda: drained.arrivals.leases > 30)
        drained.shell.standing.drain(deadline_s=20.0)
        await until(world, lambda: drained.shell.standing.lifecycle is Lifecycle.DRAINED)
        assert not drained.leftovers()

    workers = tuple(replace(plan, limits=limits) for plan in scenario.split(blocks=600))
    assert scenario.whole(scenario.play(script, workers=workers, weather=SLOW_PUSHES))


# ---------------------------------------------------------------- 21, 22, 23: migrations and the prefix index


def test_21_migration_target_runs_out_of_memory_in_mid_copy() -> None:
    """The target's last blocks go to others while the copy runs: the source decodes on, or takes it back."""

    async def script(world: World) -> None:
        client = scenario.request(world, tokens=100)
        world.ask(client)
        await until(world, lambda: client.seen_tokens > 5)
        move(world, "small")
        for number in range(6):
            world.ask(scenario.request(world, f"other{number}", prompt=60, tokens=60))
        await asyncio.sleep(0.1)
        for _ in range(20):
            await asyncio.sleep(0.05)
            if world.running() and world.running()[0][1].can_move:
                move(world, "small" if scenario.owner_of(world).plan.name != "small" else "large")

    workers = (WorkerPlan(name="large", blocks=64), WorkerPlan(name="small", blocks=13))
    limits = EngineLimits(batch_sequences_max=8, step_tokens_max=64, sequence_tokens_max=13 * 16)
    assert scenario.whole(scenario.play(script, workers=tuple(replace(plan, limits=limits) for plan in workers)))


def test_22_two_requests_migrate_past_each_other_and_back() -> None:
    for seed in range(10):

        async def script(world: World) -> None:
            clients = [scenario.request(world, f"c{number}", tokens=100) for number in range(2)]
            for client in clients:
                world.ask(client)
            await until(world, lambda: all(client.seen_tokens > 3 for client in clients))
            for _ in range(12):
                for router, flow in world.running():
                    if flow.can_move and (target := router.dispatcher.targets.elsewhere_for(flow)) is not None:
                        flow.move(target, why="test", now_s=router.now_s())
                await asyncio.sleep(0.07 * world.rng.random())

        workers = (WorkerPlan(name="a", blocks=22), WorkerPlan(name="b", blocks=22))
        world = scenario.play(script, workers=workers, seed=seed, weather=Weather(jitter_s=0.02))
        assert scenario.whole(world)


def test_23_the_prefix_index_is_wrong_in_both_directions() -> None:
    """What the router believes of caches decides where a request goes, never what it answers."""

    async def script(world: World) -> None:
        first = scenario.request(world, "first")
        world.ask(first)
        await until(world, lambda: first.is_over)
        (router,) = world.routers.values()
        for member in router.dispatcher.fleet:
            router.dispatcher.fleet.index.reset(member.slot)
        lost = scenario.request(world, "lost")
        lost.prompt = first.prompt
        world.ask(lost)
        invented = scenario.request(world, "invented")
        for member in router.dispatcher.fleet:
            router.dispatcher.fleet.index.stored(member.slot, invented.job().prompts[0].unit_hashes)
        world.ask(invented)

    assert scenario.whole(scenario.play(script, workers=scenario.split()))
