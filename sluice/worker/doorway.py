"""Stands between the router links and the shell, for stages that have messages of their own.

What a stage takes for itself never reaches the shell; what the shell has been told, others hear after it.
Decides nothing. Next: `router_link.py`, `shell.py`.
"""

from collections.abc import Callable, Sequence

from sluice.domain.ids import RouterId
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.router_link import RouterLink
from sluice.worker.shell import Shell

Take = Callable[[RouterLink, pb.RouterMessage], bool]
Hear = Callable[[pb.RouterMessage], None]


class Doorway:
    """The owner of a worker's links (`router_link.LinkOwner`)."""

    def __init__(self, shell: Shell, *, takers: Sequence[Take] = (), hearers: Sequence[Hear] = ()) -> None:
        """A taker says whether a message was for it alone; hearers hear of all others, after the shell."""
        self._shell = shell
        self._takers = tuple(takers)
        self._hearers = tuple(hearers)

    def registration(self) -> pb.Register:
        return self._shell.registration()

    def heartbeat(self, link: RouterLink) -> pb.Heartbeat:
        return self._shell.heartbeat(link)

    def prefixes(self) -> pb.PrefixUpdate:
        return self._shell.prefixes()

    def on_joined(self, link: RouterLink, router: RouterId) -> None:
        self._shell.on_joined(link, router)

    def on_lost(self, link: RouterLink, router: RouterId) -> None:
        self._shell.on_lost(link, router)

    def on_message(self, link: RouterLink, message: pb.RouterMessage) -> None:
        if any(take(link, message) for take in self._takers):
            return
        self._shell.on_message(link, message)
        for hear in self._hearers:
            hear(message)
