"""Jumping over many steps and stepping one by one give the same history, whatever the load and the mishaps."""

import random

import numpy as np
import pytest
from simulated import run, spec, workload

from sluice.domain.role import Role
from sluice.domain.slo import SloClass, Urgency
from sluice.simulator.fleet_run import RunResult
from sluice.simulator.instance_spec import InstanceSpec, StepOrder
from sluice.simulator.run_options import Objective
from sluice.simulator.workload import Workload

OBJECTIVE = Objective(slo=SloClass(name="t", urgency=Urgency.STANDARD, ttft_s=0.05, tpot_s=0.012), itl_s=0.02)
SEEDS_PER_TEST = 50


@pytest.mark.parametrize("first_seed", range(0, 600, SEEDS_PER_TEST))
def test_jumps_change_nothing(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + SEEDS_PER_TEST):
        kinds, trace = random_case(seed)
        jumping = run(kinds, trace, objective=OBJECTIVE)
        stepping = run([one_step_at_a_time(kind) for kind in kinds], trace, objective=OBJECTIVE)
        check_equal(jumping, stepping)
        for result in (jumping, stepping):
            check_nothing_is_left(result)


def random_case(seed: int) -> tuple[list[InstanceSpec], Workload]:
    """A small fleet, often short of memory, and requests that may share prefixes."""
    rng = random.Random(seed)
    count = rng.randint(1, 16)
    arrivals = sorted((round(rng.uniform(0.0, 1.5), 3), rng.randint(1, 600), rng.randint(1, 60)) for _ in range(count))
    kind = {
        "blocks": rng.choice([46, 60, 400]),
        "step_order": rng.choice(list(StepOrder)),
        "is_ahead": rng.random() < 0.5,
    }
    roles = rng.choice([[Role.MIXED, Role.MIXED], [Role.PREFILL, Role.PREFILL, Role.DECODE]])
    groups = rng.choice([0, 0, 1, 2, 3])
    ids = [[(n % groups) * 1000 + unit for unit in range(a[1] // 16)] for n, a in enumerate(arrivals)] if groups else []
    return [spec(role, **kind) for role in roles], workload(arrivals, ids)


def one_step_at_a_time(kind: InstanceSpec) -> InstanceSpec:
    return spec(kind.role, blocks=kind.blocks, step_order=kind.step_order, is_ahead=kind.is_ahead, jump_steps_max=1)


def check_equal(jumping: RunResult, stepping: RunResult) -> None:
    fast, slow = jumping.outcome, stepping.outcome
    assert (fast.fate == slow.fate).all()
    for column in ("ttft_s", "tpot_s", "end_s", "worst_gap_s"):
        np.testing.assert_allclose(getattr(fast, column), getattr(slow, column), rtol=1e-6, atol=1e-9)
    for column in ("late_tokens", "long_gaps", "preempted", "cached_tokens"):
        np.testing.assert_array_equal(getattr(fast, column), getattr(slow, column))
    assert jumping.gaps.total == stepping.gaps.total


def check_nothing_is_left(result: RunResult) -> None:
    """Every token's gap was counted once, every block is back."""
    assert result.gaps.total == int((result.outcome.output_tokens - 1).clip(0).sum())
    for instance in result.instances:
        assert instance.is_empty
        assert instance.ledger.available == instance.ledger.blocks
        assert instance.prefills.queued_tokens == 0
