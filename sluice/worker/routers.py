"""The routers a worker is connected to, and what becomes of the sequences of those that are lost.

    lost --> its sequences run on for a grace time, or until a drain's deadline --> dropped
         `-> what is being handed off is dropped at once: its prompt stays cached here

A router that is back as the same process has placed them anew: its earlier ones are dropped.
Next: `orphans.py`, `claims.py` for clients that come back to another router.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from sluice.domain.ids import Epoch, RouterId, SequenceId
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.live import Live
from sluice.worker.orphans import Loss, Orphans
from sluice.worker.router_link import RouterLink

log = logging.getLogger(__name__)


class Population(Protocol):
    """Who owns the sequences here: drops them, and hears when some are gone."""

    def drop(self, sequence: SequenceId) -> None:
        """Forget a sequence that lives here."""
        ...

    def note_empty(self) -> None:
        """Something has ended."""
        ...


class Routers:
    """The links that are up, by router."""

    def __init__(
        self,
        population: Population,
        live: Mapping[SequenceId, Live],
        *,
        grace_s: float,
        stay: Callable[[SequenceId, Epoch], None],
    ) -> None:
        """`stay` is told of sequences whose migration, if one is under way, will not be granted."""
        self.orphans = Orphans()
        self._population = population
        self._live = live
        self._grace_s = grace_s
        self._stay = stay
        self._links: dict[RouterId, RouterLink] = {}

    def __len__(self) -> int:
        return len(self._links)

    def __iter__(self) -> Iterator[RouterLink]:
        return iter(self._links.values())

    def find(self, router: RouterId) -> RouterLink | None:
        """The link to a router, if it is up."""
        return self._links.get(router)

    def joined(self, link: RouterLink, router: RouterId) -> None:
        """If this process was here before, it has placed anew what it lost with its stream."""
        self._links[router] = link
        self.orphans.forget_ended_of(router)
        for sequence in [s for s, live in self._live.items() if live.link is self.orphans and live.router == router]:
            self._population.drop(sequence)

    def lost(self, link: RouterLink, router: RouterId) -> None:
        """Its sequences go on for a while: their clients may come back to another router.

        Not those that are being handed off: what is computed of them stays cached here.
        """
        if self._links.get(router) is link:
            del self._links[router]
        lost = {sequence: live for sequence, live in self._live.items() if live.link is link}
        kept = {s: live for s, live in lost.items() if not live.is_handoff and router not in self._links}
        for sequence in lost.keys() - kept.keys():
            self._population.drop(sequence)
        for sequence, live in kept.items():
            self._stay(sequence, live.epoch)
        if kept:
            log.info("router %s is lost; %d sequences go on for %g s", router, len(kept), self._grace_s)
            loss = self.orphans.take_in(kept.values())
            asyncio.get_running_loop().call_later(self._grace_s, self._expire, loss)

    def end_orphans(self) -> None:
        """Nobody will move them away, and this worker must go: drop them all."""
        for loss in self.orphans.losses():
            self._expire(loss)

    def _expire(self, loss: Loss) -> None:
        for sequence in self.orphans.expire(loss):
            if sequence in self._live:
                self._population.drop(sequence)
        self._population.note_empty()

    def roll(self, link: RouterLink, starting: Mapping[SequenceId, tuple[Epoch, RouterLink]]) -> pb.Roll:
        """What lives here for the router at the end of `link`, and what is about to."""
        rows = [(sequence, live.epoch) for sequence, live in self._live.items() if live.link is link]
        rows += [(sequence, epoch) for sequence, (epoch, whose) in starting.items() if whose is link]
        return pb.Roll(sequence=[row[0] for row in rows], epoch=[row[1] for row in rows], heard=link.heard)
