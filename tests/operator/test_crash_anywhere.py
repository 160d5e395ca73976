"""The operator may die after any write, at any time, in any change: what it left is carried on by the next one."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from operator_trial import Trial, model_service, service_ref

from sluice.operator.manifest import Kind


def start_to_serve(trial: Trial) -> None:
    pools = {"prefill": {"replicas": {"min": 1, "max": 3}}, "decode": {}}
    trial.write(model_service(pools=pools))


def grow(trial: Trial) -> None:
    trial.scale("prefill", 2)


def roll_out(trial: Trial) -> None:
    trial.edit(service_ref(), drain={"deadlineSeconds": 33})


def roll_out_with_surge(trial: Trial) -> None:
    trial.edit(service_ref(), drain={"deadlineSeconds": 34}, rollout={"surge": 1})


def shrink(trial: Trial) -> None:
    trial.scale("prefill", 1)


def lose_a_pool(trial: Trial) -> None:
    trial.edit(service_ref(), pools={"prefill": None, "mixed": {}})


CHANGES = (start_to_serve, grow, roll_out, roll_out_with_surge, shrink, lose_a_pool)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_an_operator_that_crashes_after_any_write_arrives_at_the_same_state(change: Callable[[Trial], None]) -> None:
    before = Trial()
    for earlier in CHANGES[: CHANGES.index(change)]:
        earlier(before)
        before.settle(service_ref())
    for worker in before.world.workers.values():
        worker.sequences = 1
    requests = len(before.world.workers)
    calm = after(before, change, crash_after=None)
    writes = len(calm.world.cluster.writes) - len(before.world.cluster.writes)
    assert writes > 1
    stride = 5 if change is roll_out_with_surge else 1  # the same writes as without a surge, in another order
    for crash_after in range(0, writes, stride):
        trial = after(before, change, crash_after=crash_after)
        assert arrived(trial) == arrived(calm), f"crash after {trial.world.cluster.writes[-1]}"
        assert trial.world.lost_requests == 0
        assert sum(worker.sequences for worker in trial.world.workers.values()) == requests


def after(before: Trial, change: Callable[[Trial], None], *, crash_after: int | None) -> Trial:
    trial = copy.deepcopy(before)
    trial.restart()
    trial.world.cluster.crash_after_writes = crash_after
    change(trial)
    trial.settle(service_ref())
    return trial


def arrived(trial: Trial) -> dict[str, Any]:
    objects = trial.world.cluster.objects
    passing = {Kind.POD, Kind.EVENT, Kind.LEASE}
    return {
        "objects": sorted((one.kind.name, one.name) for one in objects if one.kind not in passing),
        "sizes": [one["spec"]["replicas"] for one in trial.world.cluster.of(Kind.DEPLOYMENT)],
        "pods": len(trial.worker_pods()),
        "marks": [pod["metadata"].get("annotations") or {} for pod in trial.world.placed()],
        "conditions": [
            (one["type"], one["status"], one["reason"]) for one in trial.status(service_ref())["conditions"]
        ],
        "pools": trial.status(service_ref())["pools"],
    }
