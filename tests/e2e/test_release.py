"""The chart's life on a real cluster: upgraded, rolled back, uninstalled and installed again.

Services serve on meanwhile. What the chart renders is tested without a cluster: `tests/chart`.
Next: `test_end.py`.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import yaml
from kube.api import Document
from kube.site import CHART, HELM_WAIT_S, RELEASE, SYSTEM, Site
from kube.traffic import Traffic

Streams = Callable[..., AbstractAsyncContextManager[Traffic]]
SETTINGS = f"/api/v1/namespaces/{SYSTEM}/configmaps/{RELEASE}-operator"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def log_level(site: Site) -> str:
    return str(yaml.safe_load(site.api.get(SETTINGS)["data"]["operator.yaml"])["telemetry"]["log_level"])


def with_helm(site: Site, act: Callable[[Any], Any]) -> Any:
    config = site.helm()
    try:
        return act(config)
    finally:
        config.close()


async def test_services_serve_on_through_the_life_of_the_release(site: Site, demo: Document, streams: Streams) -> None:
    """Upgraded, rolled back, uninstalled and installed again, with streams running."""
    louder = {**site.values(), "operator": {"logLevel": "debug"}}
    waiting = {"wait": "watcher", "timeout": HELM_WAIT_S}

    def upgrade(helm: Any) -> None:
        helm.upgrade(str(CHART), RELEASE, louder, namespace=SYSTEM, **waiting)

    async with streams("release upgraded, rolled back, uninstalled, installed") as traffic:
        await site.apart(with_helm, site, upgrade)
        assert await site.apart(log_level, site) == "debug"
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
