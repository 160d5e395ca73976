"""What the operator makes of ModelServices in a small world: from nothing to serving, and through every change."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from operator_trial import Trial, model_service, service_ref

from sluice.domain.role import Role
from sluice.operator.manifest import Kind, Ref
from sluice.operator.observation import NodeView


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
    for crash_after in range(writes):
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


# ------------------------------------------------------------ scaling by hand


def test_kubectl_scale_adds_workers(trial: Trial) -> None:
    ref = serving(trial, pools={"prefill": {}, "decode": {"replicas": {"min": 1, "max": 4}}})
    trial.scale("decode", 3)
    trial.settle(ref)
    assert trial.pool(ref, "decode")["ready"] == 3
    pool = trial.world.cluster.objects[Ref(Kind.WORKER_POOL, "default", "demo-decode")]
    assert pool["status"] == {
        "replicas": 3,
        "readyReplicas": 3,
        "drainingReplicas": 0,
        "selector": "app.kubernetes.io/component=worker,sluice.dev/pool=decode,sluice.dev/service=demo",
    }


def test_scale_down_takes_the_least_busy_worker_and_loses_no_request(trial: Trial) -> None:
    ref = serving(trial, pools={"prefill": {}, "decode": {"replicas": {"min": 1, "max": 4}}})
    trial.scale("decode", 3)
    trial.settle(ref)
    decoders = [name for name, worker in sorted(trial.world.workers.items()) if worker.role is Role.DECODE]
    for name, sequences in zip(decoders, (5, 2, 9), strict=True):
        trial.world.workers[name].sequences = sequences
    trial.scale("decode", 2)
    trial.settle(ref)
    assert trial.worker_pods("decode") == sorted([decoders[0], decoders[2]])
    assert trial.world.lost_requests == 0
    assert sum(worker.sequences for worker in trial.world.workers.values()) == 16


def test_scaling_stays_within_the_bounds_of_the_model_service(trial: Trial) -> None:
    ref = serving(trial, pools={"prefill": {}, "decode": {"replicas": {"min": 1, "max": 2}}})
    trial.scale("decode", 9)
    trial.settle(ref)
    assert trial.pool(ref, "decode")["desired"] == 2


def test_a_draining_worker_is_kept_when_it_is_wanted_again(trial: Trial) -> None:
    ref = serving(trial, pools={"prefill": {}, "decode": {"replicas": {"min": 1, "max": 2}}})
    trial.scale("decode", 2)
    trial.settle(ref)
    pods = trial.worker_pods("decode")
    for name in pods:
        trial.world.workers[name].sequences = 50
    trial.scale("decode", 1)
    for _ in range(5):
        trial.step(ref)
    assert trial.pool(ref, "decode")["draining"] == 1
    trial.scale("decode", 2)
    trial.settle(ref)
    assert trial.worker_pods("decode") == pods
    assert trial.pool(ref, "decode")["ready"] == 2


def test_pods_say_what_their_workers_do(trial: Trial) -> None:
    ref = serving(trial, pools={"prefill": {}, "decode": {"replicas": {"min": 1, "max": 2}}})
    trial.scale("decode", 2)
    trial.settle(ref)
    seen = set()
    trial.scale("decode", 1)
    for _ in range(20):
        trial.look(ref)
        for pod in trial.world.placed():
            labels, annotations = pod["metadata"]["labels"], pod["metadata"].get("annotations") or {}
            safe = annotations.get("sluice.dev/safe-to-delete")
            seen.add((labels.get("sluice.dev/lifecycle"), safe))
        trial.world.tick()
    assert ("ready", None) in seen
    assert ("drained", "true") in seen
    assert ("ready", "true") not in seen


def test_a_pool_that_is_removed_is_emptied_first(trial: Trial) -> None:
    ref = serving(trial, pools={"prefill": {}, "decode": {}, "mixed": {}})
    for worker in trial.world.workers.values():
        worker.sequences = 3
    trial.edit(ref, pools={"mixed": None})
    trial.settle(ref)
    assert len(trial.worker_pods()) == 2
    assert trial.world.lost_requests == 0
    names = {one.name for one in trial.world.cluster.objects if one.kind in {Kind.WORKER_POOL, Kind.DEPLOYMENT}}
    assert not [name for name in names if "mixed" in name]


# ------------------------------------------------------------ nodes


def test_a_node_with_the_only_decode_worker_is_emptied_after_another_is_ready(trial: Trial) -> None:
    ref = serving(trial)
    (old,) = trial.worker_pods("decode")
    trial.world.workers[old].sequences = 6
    trial.world.cordon("n1")
    trial.nodes["n1"] = NodeView(is_cordoned=True)
    budget = trial.world.cluster.objects[Ref(Kind.DISRUPTION_BUDGET, "default", "demo-decode")]
    assert budget["spec"]["maxUnavailable"] == 0
    for _ in range(60):
        trial.step(ref)
        assert any(w.admits(Role.DECODE) for w in trial.world.workers.values()), "somebody always decodes"
    (new,) = trial.worker_pods("decode")
    assert new != old
    assert trial.world.lost_requests == 0
    assert trial.world.workers[new].sequences == 6


def test_workers_of_a_node_with_a_spot_notice_are_drained_at_once(trial: Trial) -> None:
    ref = serving(trial)
    (old,) = trial.worker_pods("decode")
    trial.world.workers[old].sequences = 3
    trial.world.cordon("n1")
    trial.nodes["n1"] = NodeView(taints=frozenset({"aws-node-termination-handler/spot-itn"}))
    for _ in range(60):
        trial.step(ref)
    assert trial.world.lost_requests == 0
    assert all(pod["spec"]["nodeName"] == "n2" for pod in trial.world.placed())


# ------------------------------------------------------------ rollouts


@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (2, 1), (1, 3), (3, 3)])
def test_a_rollout_needs_no_spare_place_and_loses_no_request(prefill: int, decode: int) -> None:
    trial = Trial()
    trial.world.places = prefill + decode
    pools = {"prefill": {"replicas": {"min": prefill}}, "decode": {"replicas": {"min": decode}}}
    ref = serving(trial, pools=pools)
    old = set(trial.worker_pods())
    for worker in trial.world.workers.values():
        worker.sequences = 4
    trial.edit(ref, drain={"deadlineSeconds": 45})
    for _ in range(200):
        trial.step(ref)
        for phase in (Role.PREFILL, Role.DECODE):
            assert any(worker.admits(phase) for worker in trial.world.workers.values()), phase
        if trial.condition(ref, "Progressing")["reason"] == "Settled" and not old & set(trial.worker_pods()):
            break
    assert not old & set(trial.worker_pods())
    assert trial.world.lost_requests == 0
    assert trial.world.pods_max == prefill + decode
    assert sorted(worker.role.value for worker in trial.world.workers.values()) == sorted(
        ["prefill"] * prefill + ["decode"] * decode
    )
    assert len(trial.world.cluster.of(Kind.DEPLOYMENT)) == 3, "the old Deployments are gone"


def test_a_rollout_goes_on_where_places_are_missing(trial: Trial) -> None:
    trial.world.places = 3
    ref = trial.write(model_service(pools={"prefill": {}, "decode": {"replicas": {"min": 4}}}))
    for _ in range(20):
        trial.step(ref)
    old = set(trial.worker_pods())
    assert len(old) == 3
    degraded = trial.condition(ref, "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "WorkersDoNotStart")
    assert "no node takes it: 0/1 nodes are available" in degraded["message"]
    trial.edit(ref, drain={"deadlineSeconds": 45})
    for _ in range(80):
        trial.step(ref)
    assert len(trial.worker_pods()) == 3
    assert not old & set(trial.worker_pods())


def test_the_only_worker_of_a_service_is_replaced_when_its_requests_have_ended(trial: Trial) -> None:
    trial.world.places = 1
    ref = serving(trial, pools={"mixed": {}})
    (old,) = trial.worker_pods()
    trial.world.workers[old].sequences = 2
    trial.edit(ref, drain={"deadlineSeconds": 45})
    for _ in range(5):
        trial.step(ref)
    assert trial.worker_pods() == [old], "it runs on while requests are on it"
    trial.world.workers[old].sequences = 0
    trial.settle(ref)
    assert trial.worker_pods() != [old]
    assert trial.world.lost_requests == 0


def test_a_revision_whose_workers_do_not_start_is_taken_back(trial: Trial) -> None:
    ref = serving(trial, pools={"prefill": {"replicas": {"min": 2}}, "decode": {"replicas": {"min": 2}}})
    before = {one.name for one in trial.world.cluster.objects if one.kind is Kind.DEPLOYMENT}
    old = set(trial.worker_pods())
    trial.edit(ref, rollout={"progressDeadlineSeconds": 20}, pools={"decode": {"startupSeconds": 11}})
    trial.look(ref)
    after = {one.name for one in trial.world.cluster.objects if one.kind is Kind.DEPLOYMENT}
    trial.world.bad_revisions = {name.rpartition("-")[2] for name in after - before}
    for _ in range(120):
        trial.step(ref)
        assert any(worker.admits(Role.DECODE) for worker in trial.world.workers.values())
    assert trial.condition(ref, "Degraded")["reason"] == "RolloutTakenBack"
    assert len(trial.worker_pods("decode")) == 2
    assert len(set(trial.worker_pods("decode")) & old) >= 1
    assert trial.pool(ref, "decode")["ready"] == 2
    trial.settle(ref)
    trial.world.bad_revisions = set()
    trial.edit(ref, pools={"decode": {"startupSeconds": 12}})
    trial.settle(ref)
    assert trial.condition(ref, "Degraded")["status"] == "False"
    assert not set(trial.worker_pods("decode")) & old


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
