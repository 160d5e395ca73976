"""`sluice status [-w]`: the ModelServices of a cluster: pools, requests, conditions, attainment, KV links; -w repeats.

Reads what the operator has written into the resources and nothing else, so it needs no way to routers or workers.
"""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sluice.errors import ClusterApiError, InvalidRequestError
from sluice.operator.api_cluster import ApiCluster
from sluice.operator.connection import connection, credentials
from sluice.operator.manifest import Kind, LiveObject

WATCH_S: Final = 1.0
LINKS_MAX: Final = 5
"""Links shown that fail; the resource itself has more."""
COUNTS: Final = {"running": "running", "queued": "queued", "moved": "moved in 5 min"}
GOOD: Final = {"Accepted": "True", "Available": "True", "Degraded": "False"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice status`."""
    parser.add_argument("name", nargs="?", default="", help="one ModelService; default: all")
    parser.add_argument("-n", "--namespace", default="", help="default: all namespaces")
    parser.add_argument("-w", "--watch", action="store_true", help="keep showing it, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when every service shown is available, else 1."""
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    cluster = ApiCluster(lambda: connection(credentials()))
    console = Console()
    try:
        services = await _services(cluster, arguments)
        if arguments.json:
            print(json.dumps([_plain(one) for one in services], indent=2))
        elif arguments.watch:
            with Live(shown(services), console=console, auto_refresh=False) as live:
                while True:
                    await asyncio.sleep(WATCH_S)
                    live.update(await look(lambda: _services(cluster, arguments)), refresh=True)
        else:
            console.print(shown(services))
        return 0 if all(condition(one, "Available").get("status") == "True" for one in services) else 1
    finally:
        await cluster.close()


async def look(services: Callable[[], Awaitable[list[LiveObject]]]) -> RenderableType:
    """What there is now; while the API server does not answer, that it does not."""
    try:
        return shown(await services())
    except ClusterApiError as error:
        return Text(f"{error}; asking again", "red")


async def _services(cluster: ApiCluster, arguments: argparse.Namespace) -> list[LiveObject]:
    found = await cluster.find(Kind.MODEL_SERVICE, namespace=arguments.namespace)
    chosen = [one for one in found if arguments.name in {"", one["metadata"]["name"]}]
    if arguments.name and not chosen:
        known = ", ".join(sorted(one["metadata"]["name"] for one in found)) or "none"
        raise InvalidRequestError(
            field="name", problem=f"there is no ModelService '{arguments.name}'", remedy=f"there are: {known}"
        )
    return chosen


def shown(services: Sequence[LiveObject]) -> RenderableType:
    """Everything worth seeing of these services."""
    if not services:
        return Text("no ModelService here yet; see docs/operator.md for one of five lines")
    return Group(*(part for one in services for part in _service(one)))


def condition(service: LiveObject, kind: str) -> dict[str, Any]:
    """One condition of a service; empty if the operator has not written it."""
    conditions = (service.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == kind), {})


def _service(service: LiveObject) -> Iterable[RenderableType]:
    metadata, status = service["metadata"], service.get("status") or {}
    numbers = [f"workers {status.get('workers') or '-'}"]
    numbers += [f"{status[key]} {words}" for key, words in COUNTS.items() if key in status]
    if "attainmentPercent" in status:
        numbers.append(f"{status['attainmentPercent']:g} % meet their objectives")
    if "dollarsPerMillionTokens" in status:
        numbers.append(f"${status['dollarsPerMillionTokens']:g} per million tokens")
    title = f"{metadata['namespace']}/{metadata['name']}"
    yield Text.assemble((title, "bold"), f"  {', '.join(numbers)}  {status.get('endpoint', '')}")
    for kind, good in GOOD.items():
        one = condition(service, kind)
        if one.get("status", good) != good:
            yield Text(f"  {kind} is {one['status']}: {one['message']}", "red")
    progress = condition(service, "Progressing")
    if progress.get("status") == "True":
        yield Text(f"  {progress['message']}", "yellow")
    yield _pools(status.get("pools") or ())
    links = status.get("kvFabric") or ()
    if links:
        slowest = links[0]  # as the operator sorts them
        yield Text(f"  {len(links)} KV links, the slowest {slowest['gbPerSecond']:g} GB/s: {_link(slowest)}")
    for link in [one for one in links if one.get("lastError") or one.get("failed")][:LINKS_MAX]:
        yield Text(f"  KV {_link(link)}: {link['failed']} pushes failed; {link.get('lastError', '')}", "red")


def _link(link: LiveObject) -> str:
    return f"{link['from']} to {link['to']} over {link['transport']}"


def _pools(pools: Iterable[LiveObject]) -> Table:
    table = Table(box=None, pad_edge=True, padding=(0, 2))
    for heading in ("POOL", "ROLE", "READY", "STARTING", "DRAINING", "DRAINED", "LENT", "OUTDATED"):
        table.add_column(heading)
    for pool in pools:
        counts = [str(pool.get(key, 0)) for key in ("starting", "draining", "drained", "lent", "outdated")]
        table.add_row(pool["name"], pool["role"], f"{pool['ready']}/{pool['desired']}", *counts)
    return table


def _plain(service: LiveObject) -> dict[str, Any]:
    metadata = service["metadata"]
    return {"namespace": metadata["namespace"], "name": metadata["name"], "status": service.get("status") or {}}
