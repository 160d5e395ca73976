"""Who is told of whom: everyone of those it may send KV to, decode workers of their prefill workers, nobody twice."""

from collections import Counter

import pytest

from sluice.domain.ids import BootId, WorkerId
from sluice.domain.load import WorkerInfo
from sluice.domain.role import Role
from sluice.router.fleet import Fleet, Member
from sluice.router.peering import PEERS_MAX, Peering, acquaintances
from sluice.testing.dispatch_desk import RecordedLink


def join(fleet: Fleet, name: str, role: Role) -> Member:
    info = WorkerInfo(
        worker=WorkerId(name),
        boot=BootId(f"{name}-boot"),
        role=role,
        model="m",
        model_fingerprint="f",
        kv_address=f"{name}:1",
        block_tokens=16,
        blocks=10,
        sequence_tokens_max=100,
        batch_sequences_max=4,
        device="cpu",
    )
    return fleet.join(info, RecordedLink(), now_s=0.0)


def told(member: Member) -> list[list[tuple[str, str]]]:
    """The lists a worker has been sent since last asked."""
    assert isinstance(member.link, RecordedLink)
    messages, member.link.messages = member.link.messages, []
    return [sorted((row.target.worker, row.role) for row in message.peers.peers) for message in messages]


@pytest.fixture
async def fleet() -> Fleet:
    return Fleet(expiry_s=5.0)


async def test_everyone_hears_of_whom_it_may_send_to_and_decode_workers_of_their_senders(fleet: Fleet) -> None:
    p, d, m = join(fleet, "p", Role.PREFILL), join(fleet, "d", Role.DECODE), join(fleet, "m", Role.MIXED)
    Peering(fleet).step()
    assert told(p) == [[("d", "decode"), ("m", "mixed")]]
    assert told(d) == [[("m", "mixed"), ("p", "prefill")]]
    assert told(m) == [[("d", "decode")]]


async def test_only_those_whose_peers_have_changed_are_told_again(fleet: Fleet) -> None:
    p, d = join(fleet, "p", Role.PREFILL), join(fleet, "d", Role.DECODE)
    peering = Peering(fleet)
    peering.step()
    told(p), told(d)
    peering.step()
    other = join(fleet, "q", Role.PREFILL)
    peering.step()
    assert told(p) == []
    assert told(d) == [[("p", "prefill"), ("q", "prefill")]]
    assert told(other) == [[("d", "decode")]]
    fleet.remove(other)
    peering.step()
    assert told(d) == [[("p", "prefill")]]


async def test_a_lonely_worker_is_told_so_and_that_it_is_lonely_again(fleet: Fleet) -> None:
    p = join(fleet, "p", Role.PREFILL)
    peering = Peering(fleet)
    peering.step()
    assert told(p) == [[]]
    d = join(fleet, "d", Role.DECODE)
    peering.step()
    fleet.remove(d)
    peering.step()
    assert told(p) == [[("d", "decode")], []]


async def test_in_a_large_fleet_each_worker_gets_a_bounded_share_and_shares_are_even(fleet: Fleet) -> None:
    prefill = [join(fleet, f"p{number}", Role.PREFILL) for number in range(100)]
    decode = [join(fleet, f"d{number}", Role.DECODE) for number in range(200)]
    found = acquaintances([*prefill, *decode])
    assert {len(found[member.info.boot]) for member in prefill} == {PEERS_MAX}
    senders = Counter(peer.name for member in prefill for peer in found[member.info.boot])
    assert sum(senders.values()) == 100 * PEERS_MAX
    assert max(senders.values()) < 100
    for member in decode:
        sources = [peer for peer in found[member.info.boot] if peer.info.role is Role.PREFILL]
        assert len(sources) == senders[member.name]
