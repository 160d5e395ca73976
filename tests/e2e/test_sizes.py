"""The platform sets pool sizes by its own signals: from nothing to as many as the load needs, and back to nothing."""

import asyncio
from collections.abc import Iterator

import pytest
from kube import traffic
from kube.api import Document
from kube.processes import wait_until
from kube.site import WAIT_S, Site
from kube.traffic import STREAM_TOKENS, STREAMS, Traffic, record

SLEEPY: Document = {
    "apiVersion": "sluice.dev/v1alpha1",
    "kind": "ModelService",
    "metadata": {"name": "sleepy", "namespace": "default"},
    "spec": {
        "model": {"emulated": {"shape": "Llama-3.1-8B", "gpu": "L4"}},
        "routers": {"cpu": "100m"},
        "pools": {
            "mixed": {
                "gpuClasses": [],
                "replicas": {"min": 0, "max": 3},
                "resources": {"cpu": "100m", "memory": "1Gi"},
                "engine": {"batchSequencesMax": 24},
            }
        },
        "scaling": {"upAfterSeconds": 2, "downAfterSeconds": 4},
        "drain": {"deadlineSeconds": 60},
    },
}


@pytest.fixture
def sleepy(site: Site) -> Iterator[Document]:
    """A service that nobody has asked anything yet: a router, and no worker."""
    site.api.apply(SLEEPY)
    yield site.wait_service("sleepy", "Available")
    site.api.delete(site.service_path("sleepy"))


async def test_a_sleeping_service_wakes_grows_and_falls_asleep_without_a_failed_request(
    site: Site, sleepy: Document
) -> None:
    assert site.worker_pods("sleepy") == []
    requests = traffic.bodies("sleepy", count=STREAMS, tokens=STREAM_TOKENS)
    answers = await traffic.undisturbed(site.url("sleepy"), requests)
    running = Traffic(site.url("sleepy"), requests, answers)
    running.start()
    try:
        await running.wait_in_flight(STREAMS - 6)
        await site.apart(wait_workers, site, at_least=2)
        report = await running.finish()
    finally:
        await running.abandon()
    record("woken by 56 requests, grown under load", report)
    assert report.wrong == []
    assert (report.resumed, report.refusals.total(), report.connections_failed) == (0, 0, 0)
    await asyncio.to_thread(wait_asleep, site)


def wait_workers(site: Site, *, at_least: int) -> None:
    what = f"{at_least} workers of sleepy are ready"
    wait_until(lambda: ready(site) >= at_least, deadline_s=WAIT_S, what=what)


def ready(site: Site) -> int:
    return int(site.api.get(site.service_path("sleepy"))["status"]["workers"].partition("/")[0])


def wait_asleep(site: Site) -> None:
    wait_until(lambda: site.worker_pods("sleepy") == [], deadline_s=WAIT_S, what="sleepy has no worker")
    site.wait_service("sleepy", "Available")
