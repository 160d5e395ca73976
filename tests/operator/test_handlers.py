"""The whole operator through kopf, over HTTP: it hears of what happens, and leaves no trace of its own."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import kopf
import pytest
import yaml
from aiohttp import web
from operator_trial import model_service, service_ref

from sluice.operator import handlers
from sluice.operator.manifest import Kind, Ref
from sluice.testing.cluster.api_server import ApiServer
from sluice.testing.cluster.small_world import SmallWorld

PATIENCE_S = 30.0


@asynccontextmanager
async def operator(world: SmallWorld, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    assert handlers.on_service, "importing the handlers registers them"
    runner = web.AppRunner(ApiServer(world.cluster).application(), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    settings = folder / "operator.yaml"
    settings.write_text(yaml.safe_dump({"router_image": "control:1", "worker_image": "worker:1", "resync_s": 1.0}))
    kubeconfig = folder / "kubeconfig"
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    cluster = {"name": "c", "cluster": {"server": address}}
    kubeconfig.write_text(
        yaml.safe_dump({"current-context": "c", "contexts": [context], "clusters": [cluster], "users": [{"name": "u"}]})
    )
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("SLUICE_OPERATOR_CONFIG", str(settings))
    stop = asyncio.Event()
    task = asyncio.create_task(kopf.operator(standalone=True, clusterwide=True, stop_flag=stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE_S)
        await runner.cleanup()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_service_is_made_changed_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = SmallWorld()
    objects = world.cluster.objects
    async with operator(world, tmp_path, monkeypatch):
        ref = world.cluster.put(model_service())
        await until(lambda: bool((objects[ref].get("status") or {}).get("conditions")))
        deployments = [one.name for one in objects if one.kind is Kind.DEPLOYMENT]
        assert len(deployments) == 3
        assert "kopf" not in json.dumps(objects[ref]), "neither annotations nor finalizers"
        settings = Ref(Kind.CONFIG_MAP, "default", "demo-router")
        world.cluster.edit(service_ref(), {"spec": {"drain": {"deadlineSeconds": 7}}})
        await until(lambda: "stop_grace_s: 7" in objects[settings]["data"]["router.yaml"])
        await until(lambda: objects[ref]["status"]["observedGeneration"] == 2)
        lease = objects[Ref(Kind.LEASE, "sluice-system", "sluice-operator")]
        assert lease["spec"]["holderIdentity"]
    lease = objects[Ref(Kind.LEASE, "sluice-system", "sluice-operator")]
    assert lease["spec"]["holderIdentity"] == "", "given back"
