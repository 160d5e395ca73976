"""The platform sets pool sizes by its own signals: from nothing to as many as the load needs.

And back to nothing: `test_end.py` sees that it has. Next: `tests/support/kube/services.py` for the service.
"""

from kube import traffic
from kube.api import Document
from kube.processes import wait_until
from kube.site import WAIT_S, Site
from kube.traffic import STREAM_TOKENS, STREAMS, Traffic, record


async def test_a_sleeping_service_wakes_and_grows_without_a_failed_request(site: Site, sleepy: Document) -> None:
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
    assert report.is_undisturbed


def wait_workers(site: Site, *, at_least: int) -> None:
    what = f"{at_least} workers of sleepy are ready"
    wait_until(lambda: ready(site) >= at_least, deadline_s=WAIT_S, what=what)


def ready(site: Site) -> int:
    return int(site.api.get(site.service_path("sleepy"))["status"]["workers"].partition("/")[0])
