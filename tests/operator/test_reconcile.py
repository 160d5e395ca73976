"""What the operator makes of ModelServices in a small world: from nothing to serving, and through every change."""

from typing import Any

import pytest
from operator_trial import Trial, model_service, service_ref

from sluice.domain.role import Role
from sluice.operator.manifest import Kind, Ref


@pytest.fixture
def trial() -> Trial:
    return Trial()


def serving(trial: Trial, **spec: Any) -> Ref:
    ref = trial.write(model_service(**spec))
    trial.settle(ref)
    assert trial.condition(ref, "Available")["status"] == "True"
    return ref


def kinds(trial: Trial) -> list[str]:
    return sorted({ref.kind.name for ref in trial.world.cluster.objects})


def test_a_five_line_model_service_becomes_a_router_and_two_workers(trial: Trial) -> None:
    ref = serving(trial, model={})
    assert trial.status(ref)["workers"] == "2/2"
    assert [pool["name"] for pool in trial.status(ref)["pools"]] == ["decode", "prefill"]
    assert {worker.role for worker in trial.world.workers.values()} == {Role.PREFILL, Role.DECODE}
    assert trial.status(ref)["endpoint"] == "http://demo.default.svc:8000/v1"
    assert trial.condition(ref, "Degraded")["status"] == "False"


def test_a_look_that_finds_nothing_to_do_writes_nothing(trial: Trial) -> None:
    ref = serving(trial)
    before = list(trial.world.cluster.writes)
    for _ in range(5):
        trial.look(ref)
        trial.clock.advance(60.0)
    assert trial.world.cluster.writes == before


def test_an_operator_that_restarts_writes_nothing_either(trial: Trial) -> None:
    ref = serving(trial)
    before = len(trial.world.cluster.writes)
    trial.restart()
    trial.look(ref)
    assert len(trial.world.cluster.writes) == before


def test_what_a_hand_changed_is_put_right(trial: Trial) -> None:
    ref = serving(trial)
    service = Ref(Kind.SERVICE, "default", "demo")
    trial.world.cluster.edit(service, {"spec": {"selector": {"app": "other"}}})
    trial.look(ref)
    assert trial.world.cluster.objects[service]["spec"]["selector"]["sluice.dev/service"] == "demo"


def test_what_others_added_is_left_alone(trial: Trial) -> None:
    ref = serving(trial)
    service = Ref(Kind.SERVICE, "default", "demo")
    trial.world.cluster.edit(service, {"metadata": {"annotations": {"cloud.example/lb": "7"}}})
    before = len(trial.world.cluster.writes)
    trial.settle(ref)
    assert trial.world.cluster.objects[service]["metadata"]["annotations"]["cloud.example/lb"] == "7"
    assert len(trial.world.cluster.writes) == before


def test_a_refused_spec_says_which_field_and_what_runs_goes_on(trial: Trial) -> None:
    ref = serving(trial)
    pods = trial.worker_pods()
    trial.edit(ref, pools={"decode": {"gpuClasses": ["h100"]}})
    trial.settle(ref)
    accepted = trial.condition(ref, "Accepted")
    assert accepted["status"] == "False"
    assert "spec.pools.decode.gpuClasses: there is no GPUClass 'h100'" in accepted["message"]
    assert "create it" in accepted["message"]
    assert accepted["observedGeneration"] == trial.world.cluster.objects[ref]["metadata"]["generation"]
    assert trial.worker_pods() == pods
    events = [one["reason"] for one in trial.world.cluster.of(Kind.EVENT)]
    assert "SpecRefused" in events


def test_deleting_a_model_service_leaves_nothing_behind(trial: Trial) -> None:
    ref = serving(trial)
    trial.world.cluster.remove(ref)
    for _ in range(5):
        trial.step(ref)
    assert kinds(trial) == ["EVENT"]


def test_a_service_deleted_half_way_through_its_creation_leaves_nothing_behind() -> None:
    for writes in range(25):
        trial = Trial()
        ref = trial.write(model_service())
        trial.world.cluster.crash_after_writes = writes
        trial.step(ref)
        trial.world.cluster.remove(ref)
        for _ in range(5):
            trial.step(ref)
        assert kinds(trial) in (["EVENT"], []), writes


def test_the_api_server_may_be_away_for_minutes(trial: Trial) -> None:
    ref = serving(trial)
    pods = trial.worker_pods()
    trial.world.cluster.is_down = True
    for _ in range(300):
        with pytest.raises(Exception, match="does not answer"):
            trial.look(ref)
        trial.world.now_s += 1
    trial.world.cluster.is_down = False
    before = len(trial.world.cluster.writes)
    trial.settle(ref)
    assert trial.worker_pods() == pods
    assert len(trial.world.cluster.writes) == before


def test_the_model_cannot_be_changed(trial: Trial) -> None:
    ref = serving(trial)
    trial.edit(ref, model={"pvc": {"claim": "other"}})
    trial.look(ref)
    assert "spec.model: cannot be changed" in trial.condition(ref, "Accepted")["message"]


def test_transition_times_stay_while_a_condition_stays(trial: Trial) -> None:
    ref = serving(trial)
    since = trial.condition(ref, "Available")["lastTransitionTime"]
    trial.world.now_s += 1000
    trial.edit(ref, objectives={"ttftSeconds": 2})
    trial.settle(ref)
    assert trial.condition(ref, "Available")["lastTransitionTime"] == since
    assert trial.status(service_ref())["observedGeneration"] == 2
