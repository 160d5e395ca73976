"""Which links may be used, when each is probed, and who is ready: tried over every short history of probes."""

from itertools import product

import pytest

from sluice.domain.ids import BootId, WorkerId
from sluice.domain.role import Role
from sluice.kv_transfer.pairs import (
    BAD_PROBES_MAX,
    DECLINED_RETRY_S,
    RETRY_S_MAX,
    RETRY_S_MIN,
    UNTRIED_GRACE_S,
    Finding,
    PairState,
    PairTable,
    PeerRole,
    Probe,
)

EVERY_S = 30.0
D0, D1, P0 = BootId("d0-boot"), BootId("d1-boot"), BootId("p0-boot")
WORD = {Finding.SLOW: "too slow", Finding.FAILED: "unreachable", Finding.DECLINED: "full", Finding.GOOD: ""}


def probe(finding: Finding) -> Probe:
    return Probe(finding=finding, gb_per_s=1.0, problem=WORD[finding])


def table(**peers: Role) -> PairTable:
    made = PairTable(probe_every_s=EVERY_S)
    made.follow({BootId(f"{name}-boot"): PeerRole(WorkerId(name), role) for name, role in peers.items()}, now_s=0.0)
    return made


def run(pairs: PairTable, boot: BootId, finding: Finding, *, now_s: float) -> None:
    assert boot in pairs.due(now_s=now_s)
    pairs.ended(boot, probe(finding), now_s=now_s)
    pairs.released(boot)


@pytest.mark.parametrize("history", list(product(Finding, repeat=5)), ids=lambda h: "-".join(f.value for f in h))
def test_a_link_is_as_good_as_its_last_probes(history: tuple[Finding, ...]) -> None:
    """Good after a good probe; bad after three bad ones in a row, or one if it never was good; declines say nothing."""
    pairs, now_s = table(d0=Role.DECODE), 0.0
    told = []
    for finding in history:
        run(pairs, D0, finding, now_s=now_s)
        told += [] if finding is Finding.DECLINED else [finding]
        pair = pairs.pairs[D0]
        if not told:
            assert pair.state is PairState.UNTRIED
        elif Finding.GOOD in told[-BAD_PROBES_MAX:]:
            assert pair.state is PairState.USABLE
            assert not pair.is_bad
        else:
            assert pair.state is (PairState.SLOW if told[-1] is Finding.SLOW else PairState.FAILING)
            assert pair.is_bad
            assert pair.problem == WORD[told[-1]]
        wait_s = pair.due_s - now_s
        match finding:
            case Finding.GOOD:
                assert wait_s == EVERY_S
            case Finding.DECLINED:
                assert wait_s == DECLINED_RETRY_S
            case _:
                assert RETRY_S_MIN <= wait_s <= RETRY_S_MAX
        now_s = pair.due_s


def test_a_link_is_probed_once_at_a_time_and_at_once_when_it_is_suspected() -> None:
    pairs = table(d0=Role.DECODE)
    assert pairs.due(now_s=0.0) == [D0]
    assert pairs.due(now_s=0.0) == []
    assert pairs.next_due_s() is None
    pairs.ended(D0, probe(Finding.GOOD), now_s=1.0)
    pairs.suspect(D0, now_s=2.0)
    assert pairs.due(now_s=2.0) == []
    pairs.released(D0)
    assert pairs.due(now_s=2.0) == [D0]


def test_prefill_workers_are_never_probed_and_those_that_are_gone_are_forgotten() -> None:
    pairs = table(p0=Role.PREFILL, d0=Role.DECODE)
    assert pairs.due(now_s=0.0) == [D0]
    pairs.follow({P0: PeerRole(WorkerId("p0"), Role.PREFILL)}, now_s=1.0)
    pairs.ended(D0, probe(Finding.FAILED), now_s=1.0)
    pairs.suspect(D0, now_s=1.0)
    assert pairs.due(now_s=1.0) == []


def test_what_is_known_of_a_peer_outlives_a_change_of_its_role() -> None:
    pairs = table(d0=Role.DECODE)
    run(pairs, D0, Finding.GOOD, now_s=0.0)
    pairs.follow({D0: PeerRole(WorkerId("d0"), Role.MIXED)}, now_s=1.0)
    assert pairs.pairs[D0].state is PairState.USABLE


def test_a_prefill_worker_is_ready_while_one_decode_worker_can_be_reached() -> None:
    pairs = table(d0=Role.DECODE, d1=Role.DECODE)
    assert pairs.unready(Role.PREFILL, now_s=0.0) == [
        "no worker to send to can be reached (d0: not probed yet; d1: not probed yet)"
    ]
    pairs.due(now_s=0.0)
    pairs.ended(D0, probe(Finding.SLOW), now_s=0.0)
    assert "d0: too slow" in pairs.unready(Role.PREFILL, now_s=0.0)[0]
    pairs.ended(D1, probe(Finding.GOOD), now_s=0.0)
    assert not pairs.unready(Role.PREFILL, now_s=0.0)


def test_a_decode_worker_is_ready_while_some_prefill_worker_has_reached_it_lately() -> None:
    pairs = table(p0=Role.PREFILL, d1=Role.DECODE)
    assert pairs.unready(Role.DECODE, now_s=0.0) == ["no prefill worker has reached this worker (p0)"]
    pairs.heard(now_s=1.0)
    assert not pairs.unready(Role.DECODE, now_s=1.0 + 3 * EVERY_S)
    assert pairs.unready(Role.DECODE, now_s=1.1 + 3 * EVERY_S)


def test_who_has_nobody_to_work_with_and_who_needs_nobody_is_ready() -> None:
    assert not table().unready(Role.PREFILL, now_s=0.0)
    assert not table().unready(Role.DECODE, now_s=0.0)
    assert not table(d0=Role.DECODE).unready(Role.DECODE, now_s=0.0)
    assert not table(p0=Role.PREFILL, d0=Role.DECODE).unready(Role.MIXED, now_s=0.0)


def test_a_ready_worker_stays_so_while_its_only_peer_has_just_been_replaced() -> None:
    pairs = table(d0=Role.DECODE)
    run(pairs, D0, Finding.GOOD, now_s=0.0)
    pairs.follow({D1: PeerRole(WorkerId("d1"), Role.DECODE)}, now_s=10.0)
    assert not pairs.unready(Role.PREFILL, now_s=10.0 + UNTRIED_GRACE_S - 0.1)
    assert pairs.unready(Role.PREFILL, now_s=10.0 + UNTRIED_GRACE_S + 0.1)


def test_a_long_list_of_unreachable_peers_is_cut_short() -> None:
    pairs = table(**{f"d{number}": Role.DECODE for number in range(5)})
    (reason,) = pairs.unready(Role.PREFILL, now_s=0.0)
    assert reason.endswith(", and 2 more)")
