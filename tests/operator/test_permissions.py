"""The operator asks the cluster for what its list of permissions grants, for all of it and for nothing else."""

import asyncio

from operator_trial import Trial, model_service

from sluice.clock import ManualClock
from sluice.operator.election import Election
from sluice.operator.install_manifests import Installation, install_manifests
from sluice.operator.observation import NodeView
from sluice.operator.permissions import (
    CLUSTER_PERMISSIONS,
    OWN_NAMESPACE_PERMISSIONS,
    SERVICE_NAMESPACE_PERMISSIONS,
    Permission,
)
from sluice.testing.cluster.fake_cluster import Call

BY_KOPF = {"watch"}
"""kopf watches and lists for us; its calls are not seen here."""


def granted(*lists: tuple[Permission, ...]) -> set[Call]:
    return {
        Call(verb, one.group, resource)
        for permissions in lists
        for one in permissions
        for resource in one.resources
        for verb in one.verbs
    }


def busy_life() -> set[Call]:
    """Everything an operator does in a service's life."""
    trial = Trial()
    ref = trial.write(model_service(pools={"prefill": {}, "decode": {"replicas": {"min": 1, "max": 3}}, "mixed": {}}))
    trial.settle(ref)
    trial.scale("decode", 3)
    trial.settle(ref)
    trial.edit(ref, drain={"deadlineSeconds": 31}, pools={"mixed": None}, security={"networkPolicy": False})
    trial.settle(ref)
    trial.scale("decode", 1)
    trial.settle(ref)
    drained = trial.worker_pods("prefill")[0]
    trial.world.cordon("n1")
    trial.nodes["n1"] = NodeView(taints=frozenset({"karpenter.sh/disrupted"}))
    trial.world.places = len(trial.worker_pods())
    trial.settle(ref)
    assert drained not in trial.worker_pods()
    trial.edit(ref, scaling={"upAfterSeconds": 1}, pools={"prefill": {"replicas": {"min": 1, "max": 3}}})
    trial.world.count(inflight=99)
    for worker in trial.world.workers.values():
        worker.sequences = 64
    for _ in range(8):
        trial.step(ref)
    return set(trial.world.cluster.calls)


def elected() -> set[Call]:
    trial = Trial()
    clock = ManualClock()
    election = Election(
        trial.world.cluster, clock, me="a", namespace="sluice-system", lease_s=15.0, on_change=lambda _: None
    )

    async def run() -> None:
        await election.step()
        clock.advance(5.0)
        await election.step()

    asyncio.run(run())
    assert election.is_held
    return set(trial.world.cluster.calls)


def test_every_call_is_granted() -> None:
    namespaced = granted(SERVICE_NAMESPACE_PERMISSIONS, CLUSTER_PERMISSIONS)
    assert busy_life() - namespaced == set()
    assert elected() - granted(OWN_NAMESPACE_PERMISSIONS) == set()


def test_nothing_is_granted_that_is_not_used() -> None:
    by_kopf = {
        Call("list", group, resource)
        for group, resource in (
            ("sluice.dev", "modelservices"),
            ("", "nodes"),
            ("apiextensions.k8s.io", "customresourcedefinitions"),
        )
    }
    asked = busy_life() | elected() | by_kopf
    unused = {
        call
        for call in granted(SERVICE_NAMESPACE_PERMISSIONS, CLUSTER_PERMISSIONS, OWN_NAMESPACE_PERMISSIONS)
        if call.verb not in BY_KOPF and call not in asked
    }
    assert unused == set()


def test_no_permission_reaches_a_secret() -> None:
    for call in granted(SERVICE_NAMESPACE_PERMISSIONS, CLUSTER_PERMISSIONS, OWN_NAMESPACE_PERMISSIONS):
        assert call.resource != "secrets"
        assert "*" not in {call.verb, call.resource, call.group}


def test_the_printed_installation_holds_definitions_roles_and_an_operator() -> None:
    manifests = install_manifests(
        Installation(namespace="here", control_image="control:1", worker_image="worker:1", with_rules=False)
    )
    kinds = [one["kind"] for one in manifests]
    assert kinds.count("CustomResourceDefinition") == 3
    assert {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount", "Deployment"} <= set(kinds)
    (operator,) = [one for one in manifests if one["kind"] == "Deployment"]
    container = operator["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][1] == "--module=sluice.operator.handlers"
