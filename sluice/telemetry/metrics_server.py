"""The small HTTP door of a process: `/metrics`, `/healthz`, `/readyz`.

Asks callables for the answers, so it knows neither workers nor routers. Not for clients'
requests: the router's own door serves those. `/readyz` says why it is not ready (law L10).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from sluice.errors import ConfigError

_SHUTDOWN_S: Final = 1.0

Reasons = Callable[[], Sequence[str]]
"""Why something is not so; empty when all is well."""


def add_observation_routes(
    app: web.Application, *, exposition: Callable[[], bytes], unhealthy: Reasons, unready: Reasons
) -> None:
    """Add the three routes to `app`: 200 when the reasons are empty, else 503 with them as JSON."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return _verdict(unhealthy())

    async def readyz(_: web.Request) -> web.Response:
        return _verdict(unready())

    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)


@dataclass(frozen=True, slots=True)
class MetricsServer:
    """A running server; the caller closes it."""

    runner: web.AppRunner
    address: str  # host:port

    async def close(self) -> None:
        """Stop listening and end open connections."""
        await self.runner.cleanup()


async def start_metrics_server(
    *, host: str, port: int, exposition: Callable[[], bytes], unhealthy: Reasons, unready: Reasons
) -> MetricsServer:
    """Serve the three routes on `host`:`port`; port 0 picks a free one. Raises ConfigError if the port is taken."""
    app = web.Application()
    add_observation_routes(app, exposition=exposition, unhealthy=unhealthy, unready=unready)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(
            f"metrics port: cannot listen on {host}:{port} ({error.strerror}); free it or choose another"
        ) from error
    bound = runner.addresses[0]
    return MetricsServer(runner, f"{host}:{bound[1]}")


def _verdict(reasons: Sequence[str]) -> web.Response:
    body = orjson.dumps({"ok": not reasons, "reasons": list(reasons)})
    return web.Response(status=503 if reasons else 200, body=body, content_type="application/json")
