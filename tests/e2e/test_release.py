"""The chart's life on a real cluster: upgraded, rolled back, uninstalled and installed again.

Services serve on meanwhile. What the chart renders is tested without a cluster: `tests/chart`.
Next: `test_end.py`.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import yaml
from kube.api import Document
from kube.processes import wait_until
from kube.site import CHART, HELM_WAIT_S, RELEASE, SYSTEM, WAIT_S, Site, is_leaving
from kube.traffic import Traffic

Streams = Callable[..., AbstractAsyncContextManager[Traffic]]
SETTINGS = f"/api/v1/namespaces/{SYSTEM}/configmaps/{RELEASE}-operator"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/sluice-operator"
OPERATORS = 2
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def log_level(site: Site) -> str:
    return str(yaml.safe_load(site.api.get(SETTINGS)["data"]["operator.yaml"])["telemetry"]["log_level"])


def acts_alone(site: Site) -> bool:
    """Whether two operators are there, and one of them holds the lease."""
    names = [pod["metadata"]["name"] for pod in site.operator_pods() if not is_leaving(pod)]
    return len(names) == OPERATORS and site.api.get(LEASE)["spec"].get("holderIdentity") in names


def with_helm(site: Site, act: Callable[[Any], Any]) -> Any:
    config = site.helm()
    try:
        return act(config)
    finally:
        config.close()


async def test_services_serve_on_through_the_life_of_the_release(site: Site, demo: Document, streams: Streams) -> None:
    """Upgraded, rolled back, uninstalled and installed again, with streams running; for a while with two operators."""
    louder = {**site.values(), "operator": {"logLevel": "debug", "replicas": OPERATORS}}
    waiting = {"wait": "watcher", "timeout": HELM_WAIT_S}

    def upgrade(helm: Any) -> None:
        helm.upgrade(str(CHART), RELEASE, louder, namespace=SYSTEM, **waiting)

    async with streams("release upgraded, rolled back, uninstalled, installed") as traffic:
        await site.apart(with_helm, site, upgrade)
        assert await site.apart(log_level, site) == "debug"
        await site.apart(wait_until, lambda: acts_alone(site), deadline_s=WAIT_S, what="one of two operators acts")
        await site.apart(with_helm, site, lambda helm: helm.rollback(RELEASE, **waiting))
        assert await site.apart(log_level, site) == "info"
        assert len(await site.apart(with_helm, site, lambda helm: helm.history(RELEASE))) >= 3
        assert await site.apart(site.refused_calls) == []
        await site.apart(site.uninstall)
        assert not await site.apart(site.api.exists, SETTINGS)
        kept = [one["metadata"]["name"] for one in await site.apart(site.api.items, DEFINITIONS)]
        assert "modelservices.sluice.dev" in kept
        await traffic.wait_completed(20)
        await site.apart(site.install)
    await site.apart(site.wait_settled, "demo")
