"""Migrations, flips and failures: every request still gets all its tokens, every block comes back."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from simulated import Turns, spec, workload

from sluice.domain.role import Role
from sluice.policy.fleet_table import FleetTable
from sluice.policy.policy import Flip, Move, Running
from sluice.policy.restraint import RestraintLimits
from sluice.simulator.fleet_run import FleetRun, RunResult
from sluice.simulator.run_options import Addition, Failure, Removal, RunOptions

SEEDS_PER_TEST = 20


class Restless(Turns):
    """Moves and flips at random."""

    def __init__(self, seed: int, *, moves: float = 0.0, flips: float = 0.0) -> None:
        super().__init__()
        self._rng = random.Random(seed)
        self._moves = moves
        self._flips = flips

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        rng = self._rng
        chosen = [one for one in running if rng.random() < self._moves]
        wishes: list[Move | Flip] = [
            Move(sequence=one.sequence, to=rng.randrange(fleet.rows), why="a whim") for one in chosen
        ]
        if rng.random() < self._flips:
            wishes.append(Flip(slot=rng.randrange(1, fleet.rows), role=rng.choice(list(Role)), why="a whim"))
        return wishes


@pytest.mark.parametrize("first_seed", range(0, 120, SEEDS_PER_TEST))
def test_nothing_is_lost_whatever_moves_flips_or_fails(first_seed: int) -> None:
    moved = flipped = failed = 0
    for seed in range(first_seed, first_seed + SEEDS_PER_TEST):
        result = restless_run(seed)
        check_all_served(result)
        moved += int(result.outcome.moves.sum())
        flipped += sum(one.role is not one.spec.role for one in result.instances)
        failed += len(result.options.failures)
    assert min(moved, flipped, failed) > 0, "the runs were too quiet to prove anything"


def restless_run(seed: int) -> RunResult:
    rng = random.Random(seed)
    arrivals = sorted((rng.uniform(0.0, 2.0), rng.randint(1, 400), rng.randint(1, 150)) for _ in range(30))
    ids = [[(n % 3) * 1000 + unit for unit in range(a[1] // 16)] for n, a in enumerate(arrivals)]
    roles = [Role.MIXED, Role.PREFILL, Role.DECODE, Role.DECODE]
    failures = tuple(
        Failure(slot=slot, at_s=rng.uniform(0.1, 2.0), back_after_s=0.5) for slot in (1, 2) if rng.random() < 0.5
    )
    restraint = RestraintLimits(move_rest_s=0.0, flips_max=3, flip_rest_s=0.0, flip_wished_s=0.0)
    stale_s = rng.choice([0.0, 0.2])
    options = RunOptions(tend_every_s=0.05, flip_s=0.1, failures=failures, stale_s=stale_s, restraint=restraint)
    policy = Restless(seed, moves=0.1, flips=0.1)
    kinds = [spec(role, blocks=rng.choice([60, 400])) for role in roles]
    return FleetRun(specs=kinds, workload=workload(arrivals, ids), policy=policy, options=options).run()


def check_all_served(result: RunResult) -> None:
    outcome = result.outcome
    assert outcome.is_finished.all()
    np.testing.assert_array_equal(outcome.output_tokens, result.workload.output_tokens)
    assert result.gaps.total == int((outcome.output_tokens - 1).sum()), "every token was counted once"
    for instance in result.instances:
        assert instance.is_empty
        assert instance.ledger.available == instance.ledger.blocks
        assert instance.prefills.queued_tokens == 0


def test_a_migration_pauses_for_its_last_block_only() -> None:
    class Once(Turns):
        def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
            return [Move(sequence=one.sequence, to=1, why="once") for one in running if one.slot == 0]

    kind = spec(kv_token_bytes=1 << 20, link_bytes_per_s=1e10, link_latency_s=0.001)
    trace = workload([(0.0, 300, 100)])
    options = RunOptions(tend_every_s=0.2)
    policy = Once()
    policy._turn = 1
    result = FleetRun(specs=[kind, kind], workload=trace, policy=policy, options=options).run()
    assert result.outcome.moves[0] == 1
    step_s, tail_s = 0.0085, 16 * (1 << 20) / 1e10 + 0.001
    assert result.outcome.worst_gap_s[0] == pytest.approx(step_s + tail_s, abs=0.0005)


def test_a_failed_instance_is_empty_and_its_requests_go_on_elsewhere() -> None:
    trace = workload([(0.0, 300, 100), (0.01, 300, 100)])
    options = RunOptions(tend_every_s=0.0, failures=(Failure(slot=0, at_s=0.4, back_after_s=5.0),))
    result = FleetRun(specs=[spec(), spec()], workload=trace, policy=Turns(), options=options).run()
    check_all_served(result)
    assert (result.outcome.decode_slot == 1).all()
    assert result.outcome.worst_gap_s.max() > 0.015, "the lost request was prefilled again"


def test_a_new_replica_is_paid_from_the_asking_and_serves_after_its_cold_start() -> None:
    trace = workload([(0.1 * n, 100, 20) for n in range(60)])
    options = RunOptions(tend_every_s=0.0, additions=(Addition(spec=spec(start_s=2.0), at_s=1.0),))
    result = FleetRun(specs=[spec()], workload=trace, policy=Turns(), options=options).run()
    check_all_served(result)
    served = trace.arrival_s[result.outcome.decode_slot == 1]
    assert 3.0 <= served.min() <= 3.2
    assert result.instances[1].paid_s(result.ended_s) == pytest.approx(result.ended_s - 1.0)


def test_a_removed_replica_finishes_what_it_has_and_is_paid_until_then() -> None:
    trace = workload([(0.1 * n, 100, 100) for n in range(60)])
    options = RunOptions(tend_every_s=0.0, removals=(Removal(slot=0, at_s=2.0),))
    result = FleetRun(specs=[spec(), spec()], workload=trace, policy=Turns(), options=options).run()
    check_all_served(result)
    assert trace.arrival_s[result.outcome.decode_slot == 0].max() < 2.0
    assert 2.0 < result.instances[0].paid_s(result.ended_s) < 3.5
