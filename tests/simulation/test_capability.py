"""A commit is believed only with the capability of its reservation: same tenant, same blocks, in time."""

import asyncio
from dataclasses import replace

import pytest

from sluice.domain.block_hash import root_hash
from sluice.kv_transfer import capability
from sluice.testing.sequence_states import sequence_state
from sluice.testing.simulation import scenario
from sluice.testing.simulation.scenario import until
from sluice.testing.simulation.sim_worker import simulated
from sluice.testing.simulation.world import World
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

OTHER = root_hash(model_fingerprint="toy", salt="another tenant")


def forge(monkeypatch: pytest.MonkeyPatch, world: World, change: str) -> list[str]:
    """From now on every request's commit is forged in one way; the refusals it gets."""
    refusals: list[str] = []
    for worker in world.workers.values():
        commit = worker.arrivals.commit

        async def forged(request: pb.CommitRequest, commit=commit) -> pb.CommitReply:  # type: ignore[no-untyped-def]  # noqa: ANN001
            if not request.canary:
                match change:
                    case "no grant":
                        request.grant = b""
                    case "another grant":
                        request.grant = capability.bind(capability.fresh_secret(), root=OTHER)
                    case "another tenant":
                        request.state.root = OTHER
                    case "more tokens than there is room for":
                        request.computed = 10_000
                        request.state.tokens.extend([11] * 10_000)
                    case "a canary":
                        request.canary = True
            reply: pb.CommitReply = await commit(request)
            if not reply.attached:
                refusals.append(reply.refusal)
            return reply

        monkeypatch.setattr(worker.arrivals, "commit", forged)
    return refusals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("no grant", "grant is not of this reservation"),
        ("another grant", "grant is not of this reservation"),
        ("another tenant", "grant is not of this reservation"),
        ("more tokens than there is room for", "was sent into room for"),
        ("a canary", "reserved and committed as one"),
    ],
)
def test_a_forged_commit_is_refused_and_the_request_served_without_it(
    monkeypatch: pytest.MonkeyPatch, change: str, words: str
) -> None:
    refusals: list[list[str]] = []

    async def script(world: World) -> None:
        refusals.append(forge(monkeypatch, world, change))
        client = scenario.request(world)
        world.ask(client)
        await until(world, lambda: bool(refusals[0]) or client.is_over)
        monkeypatch.undo()

    assert scenario.whole(scenario.play(script, workers=scenario.split(decode=1)))
    assert words in refusals[0][0]


def test_a_commit_after_the_lease_has_ended_is_refused() -> None:
    """Also before the reaper has come round: what counts is the lease, not who noticed."""

    async def script(world: World) -> None:
        client = scenario.request(world)
        world.ask(client)
        receiver = world.workers["d0"]
        await until(world, lambda: receiver.arrivals.leases == 1)
        (arrival,) = receiver.arrivals._arrivals.values()
        receiver.arrivals._leases._ends_s[arrival.key] = 0.0
        await asyncio.sleep(0)
        boot, transfer = arrival.key
        state = replace(sequence_state(arrival.sequence, [11, 12]), root=arrival.root)
        request = pb.CommitRequest(
            from_boot=boot, transfer=transfer, grant=arrival.grant, state=convert.state_to_wire(state)
        )
        reply = await receiver.arrivals.commit(request)
        assert (reply.attached, "lease ran out" in reply.refusal) == (False, True)

    workers = tuple(replace(plan, transfer=simulated(lease_s=6.0)) for plan in scenario.split(decode=1))
    assert scenario.whole(scenario.play(script, workers=workers))


def test_the_service_has_no_other_way_in() -> None:
    """Whoever writes or commits presents the grant; everything else a peer may say moves no KV and no sequence."""
    methods = {name for name in vars(rpc.KvPeerServicer) if not name.startswith("_")}
    assert methods == {"Handshake", "Reserve", "Commit", "Abandon", "RenewLeases"}
