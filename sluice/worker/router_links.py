"""Keeps one link to every router there is: resolves the configured names again and again, dials what is new.

Next: `router_addresses.py` for what is dialled and dropped, `router_link.py` for one link.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Final

from sluice.worker.router_addresses import AddressInfo, Names, change
from sluice.worker.router_link import LinkOwner, RouterLink

log = logging.getLogger(__name__)

RESOLVE_EVERY_S: Final = 3.0
RESOLVE_S_MAX: Final = 5.0


class RouterLinks:
    """The links of one worker to the routers behind some names, each host:port."""

    def __init__(self, names: Sequence[str], owner: LinkOwner) -> None:
        self._names = names
        self._owner = owner
        self._known = Names(names)
        self._links: dict[str, tuple[RouterLink, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Keep the links up until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                for name in self._names:
                    self._known.resolved(name, await resolve(name))
                self._follow(group)
                await asyncio.sleep(RESOLVE_EVERY_S)

    def _follow(self, group: asyncio.TaskGroup) -> None:
        todo = change(
            listed=self._known.listed, links={address: link.is_up for address, (link, _) in self._links.items()}
        )
        for address in todo.drop:
            log.info("router at %s is gone", address)
            self._links.pop(address)[1].cancel()
        for address in todo.dial:
            link = RouterLink(address, self._owner)
            self._links[address] = (link, group.create_task(link.run(), name=f"link {address}"))


async def resolve(name: str) -> list[AddressInfo]:
    """The addresses of host:port now; none if nobody can say."""
    host, _, port = name.rpartition(":")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_S_MAX):
            answers = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        log.debug("%s cannot be resolved: %s", name, error)
        return []
    return [(family, str(where[0]), int(where[1])) for family, _, _, _, where in answers]
