"""When everything has happened: who is not needed sleeps, what was deleted is gone, and nobody asked for too much."""

from kube.api import Document
from kube.processes import wait_until
from kube.site import SYSTEM, WAIT_S, Site

from sluice.operator.permissions import (
    CLUSTER_PERMISSIONS,
    OWN_NAMESPACE_PERMISSIONS,
    SERVICE_NAMESPACE_PERMISSIONS,
)

CREATED = 201
SELDOM = {("delete", "", "pods")}  # only where a worker of a pool starts just when another has been emptied


def test_nothing_is_left_of_a_deleted_service(site: Site) -> None:
    """The five-line service of the first tests was deleted long ago; the disturbed one goes now."""
    site.api.delete(site.service_path("demo"))
    for name in ("first", "demo"):
        site.wait_gone(name)


def test_a_service_that_nobody_asks_has_fallen_asleep(site: Site, sleepy: Document) -> None:
    wait_until(lambda: site.worker_pods("sleepy") == [], deadline_s=WAIT_S, what="sleepy has no worker")
    site.wait_service("sleepy", "Available")


def test_a_pool_and_a_policy_that_are_no_longer_wanted_go(site: Site, sleepy: Document) -> None:
    pools = {"mixed": None, "night": {**sleepy["spec"]["pools"]["mixed"], "role": "mixed"}}
    site.api.merge(site.service_path("sleepy"), {"spec": {"pools": pools, "security": {"networkPolicy": False}}})

    def is_so() -> bool:
        left = site.objects_of("sleepy")
        policies = [name for name in left if name.startswith("networkpolicies/")]
        return not policies and "workerpools/sleepy-mixed" not in left and "workerpools/sleepy-night" in left

    wait_until(is_so, deadline_s=WAIT_S, what="sleepy has another pool, and no network policy")


def test_the_operator_asked_for_nothing_it_may_not_have(site: Site) -> None:
    assert "forbidden" not in site.run_kubectl("-n", SYSTEM, "logs", "deployment/sluice-operator").lower()


def test_the_api_server_refused_no_call_of_the_operator(own_site: Site) -> None:
    """The one of the first installation was asked before it went: its leave goes a moment before itself."""
    assert own_site.refused_calls() == []


def test_every_permission_that_the_operator_has_was_used(own_site: Site) -> None:
    """An apply that makes an object shows as a patch, and needs leave to create."""
    calls = own_site.own.control_plane.calls_of(SYSTEM)
    used = {(call.verb, call.group, call.resource) for call in calls}
    used |= {("create", call.group, call.resource) for call in calls if (call.verb, call.status) == ("patch", CREATED)}
    granted = {
        (verb, one.group, resource)
        for one in (*CLUSTER_PERMISSIONS, *SERVICE_NAMESPACE_PERMISSIONS, *OWN_NAMESPACE_PERMISSIONS)
        for resource in one.resources
        for verb in one.verbs
    }
    assert sorted(granted - used - SELDOM) == []
