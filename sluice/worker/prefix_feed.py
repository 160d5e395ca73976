"""What routers know of this worker's prefix cache: deltas while connected, everything on joining.

Bounded: keeps one hash per cached block. Pure; fed by `shell.py`, drained by `router_link.py`.
"""

from sluice.domain.ids import BlockHash
from sluice.engine.contract import PrefixChange
from sluice.wire.convert import hashes_to_wire
from sluice.wire.gen import sluice_pb2 as pb


class PrefixFeed:
    """The set of hashes that can be hit here, and how to tell a router of it."""

    def __init__(self) -> None:
        self._hashes: set[BlockHash] = set()

    def apply(self, change: PrefixChange) -> pb.PrefixUpdate | None:
        """Take a change in; return what connected routers must hear, if anything."""
        if not change.stored and not change.removed:
            return None
        self._hashes.difference_update(change.removed)
        self._hashes.update(change.stored)
        return pb.PrefixUpdate(stored=hashes_to_wire(change.stored), removed=hashes_to_wire(change.removed))

    def whole(self) -> pb.PrefixUpdate:
        """What a router that knows nothing must hear."""
        return pb.PrefixUpdate(stored=hashes_to_wire(self._hashes), reset=True)
