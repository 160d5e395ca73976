"""Workers come and go without a lost request: by hand, with their node, and in rollouts without a spare place."""

from typing import Any

import pytest
from operator_trial import Trial, model_service

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


def test_a_cordoned_node_is_emptied_though_no_other_has_room_for_one_more(trial: Trial) -> None:
    """Every GPU is taken: the replacement waits for the place of the one that it is to replace."""
    pools = {name: {"replicas": {"min": 2}} for name in ("prefill", "decode")}
    trial.world.places = 4
    ref = serving(trial, pools=pools)
    for worker in trial.world.workers.values():
        worker.sequences = 3
    trial.world.cordon("n1")
    trial.nodes["n1"] = NodeView(is_cordoned=True)
    for _ in range(300):
        trial.step(ref)
        for phase in (Role.PREFILL, Role.DECODE):
            assert any(worker.admits(phase) for worker in trial.world.workers.values()), phase
    assert {pod["spec"]["nodeName"] for pod in trial.world.placed()} == {"n2"}
    assert len(trial.worker_pods()) == 4
    assert trial.world.lost_requests == 0


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


# ------------------------------------------------------------ encode workers


def test_encode_workers_are_replaced_like_others_and_never_take_another_role(trial: Trial) -> None:
    pools: dict[str, Any] = {"encode": {}, "prefill": {}, "decode": {}}
    ref = serving(trial, pools=pools)
    (old,) = trial.worker_pods("encode")
    trial.edit(ref, drain={"deadlineSeconds": 45})
    for _ in range(200):
        trial.step(ref)
        for phase in (Role.PREFILL, Role.DECODE):
            assert any(worker.admits(phase) for worker in trial.world.workers.values()), phase
        for pod in trial.worker_pods("encode"):
            assert pod not in trial.world.workers or trial.world.workers[pod].role is Role.ENCODE
        if trial.condition(ref, "Progressing")["reason"] == "Settled" and old not in trial.worker_pods():
            break
    (new,) = trial.worker_pods("encode")
    assert new != old
    roles = sorted(worker.role.value for worker in trial.world.workers.values())
    assert roles == ["decode", "encode", "prefill"]


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
