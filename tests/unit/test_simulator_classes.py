"""Requests of several SLO classes in one replay: each is judged by its own, and the urgent are placed first."""

from dataclasses import replace

import numpy as np
import pytest
import simulated
from simulated import spec, workload

from sluice.domain.slo import SloClass, Urgency
from sluice.policy.least_load import LeastLoad
from sluice.simulator.fleet_run import FleetRun
from sluice.simulator.run_options import Objective, RunOptions
from sluice.simulator.summary import Goal, meets, summarise

HASTY = SloClass(name="hasty", urgency=Urgency.INTERACTIVE, ttft_s=0.02, tpot_s=0.01)
EASY = SloClass(name="easy", urgency=Urgency.BATCH, ttft_s=10.0, tpot_s=1.0)


def test_every_request_is_held_against_its_own_class() -> None:
    trace = replace(workload([(0.0, 400, 20), (1.0, 400, 20)]), slo_class=np.array([0, 1]))
    result = simulated.run([spec()], trace, objective=Objective(classes=(HASTY, EASY)))
    assert list(meets(result, Goal.DEADLINE)) == [False, True]
    assert list(meets(result, Goal.TTFT)) == [False, True]
    assert summarise(result, (Goal.TTFT,)).attained_all == pytest.approx(0.5)


def test_a_workload_without_classes_is_held_against_the_one_objective() -> None:
    trace = workload([(0.0, 400, 20)])
    assert meets(simulated.run([spec()], trace, objective=Objective(slo=EASY, classes=(HASTY,))), Goal.TTFT).all()


def test_classes_follow_their_shares_and_the_seed() -> None:
    trace = workload([(float(at), 10, 10) for at in range(2000)])
    drawn = trace.with_classes((0.7, 0.3), seed=1).slo_class
    assert np.mean(drawn == 0) == pytest.approx(0.7, abs=0.04)
    assert (drawn == trace.with_classes((0.7, 0.3), seed=1).slo_class).all()
    assert (drawn != trace.with_classes((0.7, 0.3), seed=2).slo_class).any()


def test_who_is_urgent_gets_the_first_place_that_becomes_free() -> None:
    # One sequence fills a batch, and a worker holds two batches: the third and fourth wait for a place.
    full = spec(batch_sequences_max=1, step_tokens_max=64)
    trace = workload([(0.0, 16, 60), (0.01, 16, 60), (0.02, 16, 5), (0.03, 16, 5)])
    run = FleetRun(
        specs=[full],
        workload=replace(trace, slo_class=np.array([1, 1, 1, 0])),
        policy=LeastLoad(),
        options=RunOptions(objective=Objective(classes=(HASTY, EASY))),
    )
    outcome = run.run().outcome
    assert outcome.is_finished.all()
    assert outcome.end_s[3] < outcome.end_s[2]
