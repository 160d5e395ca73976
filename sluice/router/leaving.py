"""How a router stops: nobody is sent here any more, who comes all the same is served, what runs ends.

    told to stop --> LEAVING: kept-open connections get one more answer each, with `Connection: close`
                 --> quiet, or half the grace is over --> CLOSED: what runs may end --> idle, or the grace is over

A client that keeps its connections would otherwise send its next request into a closing one, and only it could
know whether to send it again. Next: `door.py` for the states, `process.py`, which closes everything afterwards.
"""

import asyncio
import contextlib
from typing import Final

from aiohttp import web

from sluice.router.dispatcher import Dispatcher

QUIET_S: Final = 1.0
"""A client that uses its connection again does so sooner."""


async def leave(dispatcher: Dispatcher, server: web.Server, *, grace_s: float) -> None:
    """Return when nothing runs here and nobody comes any more, or after `grace_s`."""
    dispatcher.door.leave()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_s / 2):
            await _wait_quiet(dispatcher, server)
    dispatcher.door.close()
    server.pre_shutdown()  # what is still open and idle
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_s / 2):
            await dispatcher.wait_idle()


async def _wait_quiet(dispatcher: Dispatcher, server: web.Server) -> None:
    while True:
        await dispatcher.wait_idle()
        if not server.connections:
            return
        await asyncio.sleep(QUIET_S)
        if not dispatcher.sequences and not dispatcher.door.held:
            return
