"""Which incarnations of other workers have been replaced by newer ones, as routers tell it.

A router's stream is ordered and a router knows one incarnation of a name at a time: when it names a
worker's new boot where it named another before, the old process has ended. Two routers may tell the
same at different times, and one may be behind: what has been replaced once never replaces anybody.
Decides; never acts. Next: `probing.py`, which hears of peers, `decode_worker/arrivals.py`, which
frees what nobody can write any more.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from sluice.domain.ids import BootId, WorkerId

L = TypeVar("L")

REMEMBERED_MAX: Final = 4096  # names for each router, and incarnations that have been replaced


class Successions(Generic[L]):
    """What each link's router has said of every worker's present incarnation."""

    def __init__(self) -> None:
        self._named: dict[L, OrderedDict[WorkerId, BootId]] = {}
        self._replaced: OrderedDict[BootId, None] = OrderedDict()

    def hear(self, link: L, named: Mapping[WorkerId, BootId]) -> list[BootId]:
        """A router names workers and their boots; which incarnations have ended, as far as nobody said so before."""
        known = self._named.setdefault(link, OrderedDict())
        ended = []
        for worker, boot in named.items():
            before = known.get(worker, boot)
            if boot in self._replaced:
                continue
            if before != boot and before not in self._replaced:
                ended.append(before)
                self._replaced[before] = None
            known[worker] = boot
            known.move_to_end(worker)
        while len(known) > REMEMBERED_MAX:
            known.popitem(last=False)
        while len(self._replaced) > REMEMBERED_MAX:
            self._replaced.popitem(last=False)
        return ended

    def forget(self, link: L) -> None:
        """The link's router is lost: what it says next begins anew."""
        self._named.pop(link, None)
