"""What one operator costs: 500 ModelServices from nothing, then nothing to do, then one edit after another.

`python benchmarks/operator.py` starts an API server in memory in this process and `kopf run` beside it, over HTTP. With
`--services 50` it takes seconds. The server's own CPU is told apart; a real one costs more (docs/benchmarks.md).
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml
from aiohttp import web

from sluice.operator.manifest import Kind, Manifest, Ref
from sluice.testing.cluster.api_server import ApiServer
from sluice.testing.cluster.fake_cluster import FakeCluster

PER_NAMESPACE = 25
START_S_MAX, DONE_S_MAX, EDIT_S_MAX = 60.0, 600.0, 60.0
QUIET_S = 40.0  # longer than the operator's resync
SETTLED_S = 12.0  # longer than the operator waits between looks at pods that start
EDITS = 20


def service(index: int) -> Manifest:
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "ModelService",
        "metadata": {"name": f"model-{index}", "namespace": f"team-{index // PER_NAMESPACE}"},
        "spec": {"pools": {"prefill": {}, "decode": {"replicas": {"min": 1, "max": 8}}}},
    }


async def until(holds: Callable[[], bool], *, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.005)


async def run(services: int) -> None:
    cluster = FakeCluster(wall_s=time.time)
    runner = web.AppRunner(ApiServer(cluster).application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with tempfile.TemporaryDirectory() as folder:
        process = await start_operator(Path(folder), f"http://127.0.0.1:{runner.addresses[0][1]}")
        try:
            await measure(cluster, psutil.Process(process.pid), services)
        finally:
            process.terminate()
            await process.wait()
            await runner.cleanup()


async def start_operator(folder: Path, address: str) -> asyncio.subprocess.Process:
    kubeconfig = folder / "kubeconfig"
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    where = [{"name": "c", "cluster": {"server": address}}]
    whole = {"current-context": "c", "contexts": [context], "clusters": where, "users": [{"name": "u"}]}
    kubeconfig.write_text(yaml.safe_dump(whole), encoding="utf-8")
    settings = folder / "operator.yaml"
    settings.write_text("router_image: control:1\n", encoding="utf-8")
    command = ["-m", "kopf", "run", "--module=sluice.operator.handlers", "--all-namespaces", "--standalone", "--quiet"]
    own = {"KUBECONFIG": str(kubeconfig), "SLUICE_OPERATOR_CONFIG": str(settings)}
    return await asyncio.create_subprocess_exec(sys.executable, *command, env={**os.environ, **own})


async def measure(cluster: FakeCluster, operator: psutil.Process, services: int) -> None:
    lease = Ref(Kind.LEASE, "sluice-system", "sluice-operator")
    await until(lambda: lease in cluster.objects, seconds=START_S_MAX)
    print(f"operator started: {operator.memory_info().rss / 2**20:.0f} MiB")
    refs = [cluster.put(service(index)) for index in range(services)]
    began_s, cpu_s = time.perf_counter(), cpu(operator)
    await until(
        lambda: all((cluster.objects[ref].get("status") or {}).get("conditions") for ref in refs), seconds=DONE_S_MAX
    )
    took_s, used_s = time.perf_counter() - began_s, cpu(operator) - cpu_s
    objects = len(cluster.objects) - services
    print(f"{services} ModelServices, {objects} objects: {took_s:.1f} s, {used_s:.1f} s of CPU in the operator")
    await settled(cluster)
    writes, cpu_s = len(cluster.writes), cpu(operator)
    await asyncio.sleep(QUIET_S)
    renewals = sum(write.startswith("update leases") for write in cluster.writes[writes:])
    others = len(cluster.writes) - writes - renewals
    percent = 100 * (cpu(operator) - cpu_s) / QUIET_S
    print(f"nothing to do for {QUIET_S:.0f} s: {others} writes ({renewals} lease renewals), {percent:.1f} % of a core")
    reactions_s = [await reaction_s(cluster, refs[index % services], index) for index in range(EDITS)]
    worst_s = max(reactions_s)
    print(f"reaction to an edit: median {statistics.median(reactions_s) * 1e3:.0f} ms, worst {worst_s * 1e3:.0f} ms")
    print(f"operator at the end: {operator.memory_info().rss / 2**20:.0f} MiB")


async def settled(cluster: FakeCluster) -> None:
    """Until nothing but the lease has been written for a while: pools are answered one look later."""
    writes = -1
    while writes != (now := sum("leases" not in write for write in cluster.writes)):
        writes = now
        await asyncio.sleep(SETTLED_S)


async def reaction_s(cluster: FakeCluster, ref: Ref, index: int) -> float:
    """From the edit to its first effect on an object."""
    settings = Ref(Kind.CONFIG_MAP, ref.namespace, f"{ref.name}-router")
    wanted = f"stop_grace_s: {100 + index}"
    began_s = time.perf_counter()
    cluster.edit(ref, {"spec": {"drain": {"deadlineSeconds": 100 + index}}})
    await until(lambda: wanted in cluster.objects[settings]["data"]["router.yaml"], seconds=EDIT_S_MAX)
    return time.perf_counter() - began_s


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", type=int, default=500)
    asyncio.run(run(parser.parse_args().services))
