"""One cluster for all end-to-end tests, with the chart installed and one ModelService that gets disturbed.

`make e2e` runs them on a cluster that this machine starts; with KUBECONFIG set they run on that one, and
what needs to break nodes or the API server is skipped. The disturbed service computes on emulated GPUs: real
routers, workers, KV bytes and transports, steps that last what an L4 needs, and room for 56 streams on two cores.
`SLUICE_E2E_ENGINE=model` gives it the demo model on CPUs instead. Next: `tests/support/kube/site.py`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import pytest
from kube import services, traffic
from kube import site as sites
from kube.api import Document
from kube.commands import UnfitError
from kube.site import GPUS_PER_NODE, Site
from kube.traffic import STREAM_TOKENS, STREAMS, Traffic, record

ORDER = (
    "test_first_token.py",
    "test_disruptions.py",
    "test_sizes.py",
    "test_planned.py",
    "test_release.py",
    "test_end.py",
)
TEST_S_MAX = 900
WAIT_TOKENS_S = 180.0


class Undisturbed(Protocol):
    """Traffic around a disruption, checked when the block ends."""

    def __call__(
        self, name: str, *, resumed_max: int = 0, connections_failed_max: int = 0
    ) -> contextlib.AbstractAsyncContextManager[Traffic]: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """From an empty cluster on: the first token is timed before anything else has been installed."""
    ours = [item for item in items if item.path.name in ORDER]
    others = [item for item in items if item.path.name not in ORDER]
    items[:] = [*others, *sorted(ours, key=lambda item: ORDER.index(item.path.name))]
    for item in ours:
        item.add_marker(pytest.mark.timeout(TEST_S_MAX))


@pytest.fixture(scope="session")
def bare_site() -> Iterator[Site]:
    """A cluster without Sluice."""
    try:
        found = sites.find_site()
    except UnfitError as error:
        pytest.skip(str(error))
    try:
        yield found
    finally:
        if found.own is not None and not found.is_kept:
            found.own.down()


@pytest.fixture(scope="session")
def site(bare_site: Site) -> Iterator[Site]:
    """A cluster with the chart installed."""
    bare_site.install()
    yield bare_site
    if bare_site.own is None:  # an own cluster goes as a whole
        bare_site.uninstall()


@pytest.fixture
def own_site(site: Site) -> Site:
    """A cluster that may be broken from outside."""
    if site.own is None:
        pytest.skip("breaks nodes or the API server: only on a cluster of its own; unset KUBECONFIG")
    return site


@pytest.fixture(scope="session")
def demo(site: Site) -> Iterator[Document]:
    """A ModelService with two workers of either role, one on each node, and two routers."""
    if site.own is not None:
        site.set_gpus(GPUS_PER_NODE)
        site.api.apply(services.l4())
    site.api.apply(services.demo(has_gpus=site.own is not None))
    found = site.wait_settled("demo")
    site.wait_answers("demo")
    yield found
    site.api.delete(site.service_path("demo"))


@pytest.fixture(scope="session")
def sleepy(site: Site) -> Iterator[Document]:
    """A service that nobody has asked anything yet: a router, and no worker."""
    site.api.apply(services.sleepy())
    found = site.wait_service("sleepy", "Available")
    site.wait_answers("sleepy")
    yield found
    site.api.delete(site.service_path("sleepy"))


@pytest.fixture(scope="session")
def answers(site: Site, demo: Document) -> list[str]:
    """What every stream must say, as said when nothing happened."""
    requests = traffic.bodies("demo", count=STREAMS, tokens=STREAM_TOKENS)
    return asyncio.run(traffic.undisturbed(site.url("demo"), requests))


@pytest.fixture
def streams(site: Site, demo: Document, answers: list[str]) -> Undisturbed:
    """Starts streams, lets the block disturb them, and proves that each said what it must, every token once."""

    @contextlib.asynccontextmanager
    async def running(name: str, *, resumed_max: int = 0, connections_failed_max: int = 0) -> AsyncIterator[Traffic]:
        requests = traffic.bodies("demo", count=STREAMS, tokens=STREAM_TOKENS)
        running = Traffic(site.url("demo"), requests, answers)
        running.start()
        try:
            await running.wait_in_flight(STREAMS - 6, deadline_s=WAIT_TOKENS_S)
            yield running
            report = await running.finish()
        finally:
            await running.abandon()
        record(name, report)
        assert report.wrong == []
        assert report.resumed <= resumed_max
        assert not report.refusals
        assert report.connections_failed <= connections_failed_max
        assert report.completed >= STREAMS

    return running
