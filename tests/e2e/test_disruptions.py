"""What happens to clusters, under at least 50 running streams: every stream says what it must, every token once.

A worker that leaves or dies, a node, the operator, the API server: no client notices more than a pause. Only a
router that is killed makes its clients ask again, and they get the rest. Next: `conftest.py`.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from kube import services
from kube.api import Document
from kube.site import GPUS_PER_NODE, Site
from kube.traffic import Traffic

Streams = Callable[..., AbstractAsyncContextManager[Traffic]]
ANY = 1000
AUTOSCALER = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/demo-decode"
WORKERS_PER_NODE = 2


async def test_a_drained_node_loses_no_request(site: Site, demo: Document, streams: Streams) -> None:
    if len(await site.apart(site.open_nodes)) < 2:
        pytest.skip("needs a second node that takes pods")
    node = await site.apart(site.busiest_node, "demo")
    async with streams("kubectl drain"):
        drained = await site.apart(
            site.run_kubectl, "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s"
        )
        assert f"node/{node}" in drained.splitlines()[-1]
        await site.apart(site.run_kubectl, "uncordon", node)
    await site.apart(site.wait_settled, "demo")


async def test_every_pool_scales_up_and_down_under_load(site: Site, demo: Document, streams: Streams) -> None:
    """Prefill by hand, decode by the cluster's autoscaler, whose bounds make it act: nothing is measured here."""
    async with streams("both pools scaled 2, 3, 2") as traffic:
        for replicas in (3, 2):
            await site.apart(site.scale, "demo", "prefill", replicas)
            await site.apart(site.api.apply, services.autoscaler("demo-decode", replicas=replicas))
            await site.apart(site.wait_size, "demo", "decode", replicas)
            await site.apart(site.wait_settled, "demo")
            await traffic.wait_completed(20)
    await site.apart(site.api.delete, AUTOSCALER)


async def test_a_rolling_update_needs_no_spare_gpu(own_site: Site, demo: Document, streams: Streams) -> None:
    """Every GPU of the cluster is taken: a new worker starts when an old one has handed its requests over."""
    await own_site.apart(own_site.set_gpus, WORKERS_PER_NODE)
    try:
        if demo["spec"]["pools"]["decode"]["gpuClasses"]:
            await own_site.apart(own_site.wait_no_free_gpus)
        async with streams("rolling update of all workers, no GPU spare"):
            await own_site.apart(change_all_workers, own_site)
            await own_site.apart(own_site.wait_settled, "demo")
    finally:
        await own_site.apart(own_site.set_gpus, GPUS_PER_NODE)


def change_all_workers(site: Site) -> None:
    found = site.api.get(site.service_path("demo"))
    tokens = 300 + found["metadata"]["generation"]  # never what it was: workers must be made anew
    change = {"spec": {"pools": {name: {"engine": {"stepTokensMax": tokens}} for name in ("prefill", "decode")}}}
    site.api.merge(site.service_path("demo"), change)


async def test_a_deleted_pod_hands_its_requests_over(site: Site, demo: Document, streams: Streams) -> None:
    async with streams("kubectl delete pod: a decode worker, a prefill worker, a router"):
        decode = await site.apart(site.worker_pods, "demo", pool="decode")
        prefill = await site.apart(site.worker_pods, "demo", pool="prefill")
        routers = await site.apart(site.router_pods, "demo")
        leaving = [pods[0]["metadata"]["name"] for pods in (decode, prefill, routers)]
        await site.apart(site.run_kubectl, "delete", "pod", *leaving)
        await site.apart(site.wait_settled, "demo")


async def test_a_killed_worker_costs_a_pause(own_site: Site, demo: Document, streams: Streams) -> None:
    async with streams("kill -9 of a decode worker") as traffic:
        workers = await own_site.apart(own_site.worker_pods, "demo", pool="decode")
        await own_site.apart(own_site.kill_container, workers[0])
        await traffic.wait_completed(20)
        await own_site.apart(own_site.wait_settled, "demo")


async def test_clients_of_a_killed_router_get_the_rest_from_the_other(
    own_site: Site, demo: Document, streams: Streams
) -> None:
    async with streams("kill -9 of a router", resumed_max=ANY, connections_failed_max=ANY) as traffic:
        routers = await own_site.apart(own_site.router_pods, "demo")
        await own_site.apart(own_site.kill_container, routers[0])
        await traffic.wait_completed(20)
    await own_site.apart(own_site.wait_settled, "demo")


async def test_a_killed_operator_is_not_missed(own_site: Site, demo: Document, streams: Streams) -> None:
    async with streams("kill -9 of the operator, then decode scaled to 3 and back"):
        (operator,) = await own_site.apart(own_site.operator_pods)
        await own_site.apart(own_site.kill_container, operator)
        for replicas in (3, 2):
            await own_site.apart(own_site.scale, "demo", "decode", replicas)
            await own_site.apart(own_site.wait_settled, "demo")


async def test_an_api_server_that_is_away_is_not_missed(own_site: Site, demo: Document, streams: Streams) -> None:
    plane = own_site.own.control_plane
    async with streams("API server away") as traffic:
        await own_site.apart(plane.stop_api_server)
        await traffic.wait_completed(40)
        await own_site.apart(plane.start_api_server)
        await traffic.wait_completed(20)
        await own_site.apart(own_site.wait_settled, "demo")


async def test_a_silent_node_costs_nothing_but_its_workers(own_site: Site, demo: Document, streams: Streams) -> None:
    name = await own_site.apart(own_site.busiest_node, "demo")
    node = own_site.own.node(name)
    async with streams("node NotReady", resumed_max=ANY) as traffic:
        await own_site.apart(node.stop_kubelet)
        await own_site.apart(own_site.wait_node, name, is_ready=False)
        await traffic.wait_completed(20)
        await own_site.apart(node.start_kubelet)
        await own_site.apart(own_site.wait_node, name, is_ready=True)
        await own_site.apart(own_site.wait_settled, "demo")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "two sources": ({"model": {"pvc": {"claim": "a"}, "hostPath": {"path": "/x"}}}, "keep one of"),
    "max below min": ({"model": {}, "pools": {"mixed": {"replicas": {"min": 3, "max": 2}}}}, "max below its min"),
    "nobody decodes": ({"model": {}, "pools": {"prefill": {}}}, "no pool that decodes"),
    "an unknown GPU class": ({"model": {}, "pools": {"mixed": {"gpuClasses": ["h900"]}}}, "h900"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_spec_is_refused_in_words(site: Site, case: str) -> None:
    spec, words = BAD[case]
    document = {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "ModelService",
        "metadata": {"name": "bad", "namespace": "default"},
        "spec": spec,
    }
    site.api.apply(document)
    try:
        found = site.wait_service("bad", "Accepted", status="False")
        (condition,) = [one for one in found["status"]["conditions"] if one["type"] == "Accepted"]
        assert words in condition["message"]
    finally:
        site.api.delete(site.service_path("bad"))
