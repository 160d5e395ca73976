"""A worker's row in the fleet table: what it reported, and what was sent there since."""

import pytest

from sluice.domain.ids import BootId, SequenceId, WorkerId
from sluice.domain.load import LinkLoad, WorkerInfo, WorkerLoad
from sluice.domain.role import Lifecycle, Role
from sluice.domain.step import StepSample, StepTerms
from sluice.policy.fleet_table import FleetTable
from sluice.router.fleet import Fleet, Member
from sluice.router.worker_link import WorkerLink

TERMS = StepTerms(base_s=0.01, prefill_token_s=1e-4, pair_s=1e-9, decode_s=1e-4, context_token_s=1e-8, error=0.05)


def join(fleet: Fleet, name: str, role: Role = Role.MIXED, terms: StepTerms | None = TERMS) -> Member:
    info = WorkerInfo(
        worker=WorkerId(name),
        boot=BootId(f"{name}-boot"),
        role=role,
        model="m",
        model_fingerprint="f",
        kv_address="",
        block_tokens=16,
        blocks=1000,
        sequence_tokens_max=4096,
        batch_sequences_max=8,
        device="cpu",
        price_per_h=3.6,
        link_bytes_per_s=5e9,
        step_terms=terms,
    )
    return fleet.join(info, WorkerLink(), now_s=0.0)


def row(table: FleetTable, slot: int) -> tuple[int, int, int, int, int]:
    columns = (table.waiting, table.running, table.queued_tokens, table.context_tokens, table.free_blocks)
    waiting, running, queued, context, free = (int(column[slot]) for column in columns)
    return waiting, running, queued, context, free


def test_a_worker_is_not_ready_before_its_first_heartbeat() -> None:
    fleet = Fleet(expiry_s=5.0)
    member = join(fleet, "w")
    assert not fleet.table.is_ready[member.slot]
    fleet.beat(member, WorkerLoad(lifecycle=Lifecycle.READY, free_blocks=100), now_s=1.0)
    assert fleet.table.is_ready[member.slot]


def test_what_was_sent_counts_until_a_heartbeat_that_must_know_of_it() -> None:
    fleet = Fleet(expiry_s=5.0)
    member = join(fleet, "w")
    fleet.beat(member, WorkerLoad(lifecycle=Lifecycle.READY, free_blocks=100), now_s=1.0)
    member.hold(SequenceId(1), prefill_tokens=160, context_tokens=200, now_s=1.2)
    member.hold(SequenceId(2), prefill_tokens=0, context_tokens=50, now_s=1.95)
    assert row(fleet.table, member.slot) == (2, 0, 160, 50, 100 - 13 - 4)
    assert fleet.table.queued_pairs[member.slot] == 160 * (40 + 80)
    load = WorkerLoad(lifecycle=Lifecycle.READY, running_sequences=1, context_tokens=200, free_blocks=87)
    fleet.beat(member, load, now_s=2.0)
    assert row(fleet.table, member.slot) == (1, 1, 0, 250, 87 - 4)
    member.release(SequenceId(2))
    member.release(SequenceId(2))
    assert row(fleet.table, member.slot) == (0, 1, 0, 200, 87)


def test_a_prefill_worker_decodes_nothing_and_own_sequences_are_never_forgotten() -> None:
    fleet = Fleet(expiry_s=5.0)
    member = join(fleet, "w", Role.PREFILL)
    member.hold(SequenceId(1), prefill_tokens=9, context_tokens=9, now_s=0.0)
    fleet.beat(member, WorkerLoad(lifecycle=Lifecycle.READY, context_tokens=70), now_s=5.0)
    assert row(fleet.table, member.slot)[:4] == (1, 0, 0, 0)


def test_the_row_has_what_the_worker_expects_of_its_steps_until_they_are_measured() -> None:
    fleet = Fleet(expiry_s=5.0)
    member, silent = join(fleet, "w"), join(fleet, "v", terms=None)
    assert fleet.table.prefill_token_s[member.slot] == TERMS.prefill_token_s
    assert fleet.table.error[member.slot] == TERMS.error
    assert fleet.table.error[silent.slot] > TERMS.error
    steps = tuple(StepSample(number, 0, 0.0, 0, 4, 1000, 0.04) for number in range(1, 30))
    fleet.beat(member, WorkerLoad(lifecycle=Lifecycle.READY, steps=steps), now_s=1.0)
    assert fleet.table.base_s[member.slot] > TERMS.base_s


def test_a_link_that_works_is_measured_and_one_with_a_problem_severs_the_pair() -> None:
    fleet = Fleet(expiry_s=5.0)
    source, target = join(fleet, "a"), join(fleet, "b")
    good = LinkLoad(peer=WorkerId("b"), peer_boot=BootId("b-boot"), transport="tcp", gb_per_s=2.0)
    fleet.beat(source, WorkerLoad(lifecycle=Lifecycle.READY, links=(good,)), now_s=1.0)
    assert fleet.table.link_bytes_per_s[source.slot] == pytest.approx(2e9)
    assert fleet.table.can_send(source.slot, target.slot)
    bad = LinkLoad(peer=WorkerId("b"), peer_boot=BootId("b-boot"), transport="tcp", problem="too slow")
    fleet.beat(source, WorkerLoad(lifecycle=Lifecycle.READY, links=(bad,)), now_s=2.0)
    assert not fleet.table.can_send(source.slot, target.slot)
    assert fleet.table.can_send(target.slot, source.slot)
    fleet.remove(target)
    newcomer = join(fleet, "c")
    assert newcomer.slot == target.slot
    assert fleet.table.can_send(source.slot, newcomer.slot)
