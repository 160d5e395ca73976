"""What the shell asks of the stages above it. The stages are strangers to each other.

`prefill_worker` implements Handoffs, `decode_worker` implements Arrivals; a process hosts both,
and its role only says what routers send it. Next: `shell.py`.
"""

from collections.abc import Sequence
from typing import Protocol

from sluice.domain.ids import BootId, Epoch, SequenceId
from sluice.domain.role import Role
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import Fence, KvSpan
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.live import Hearer


class Handoffs(Protocol):
    """Sequences prefilled here for other workers. Every method returns at once."""

    @property
    def open(self) -> int:
        """How many have not ended."""
        ...

    def begin(self, state: SequenceState, target: pb.DecodeTarget, *, parent: str) -> None:
        """A sequence added with `hold` is to decode at `target`; `parent` is the trace context of its prefill."""
        ...

    def on_group(self, group: int, spans: Sequence[KvSpan], fence: Fence) -> None:
        """A layer group of held sequences has been written."""
        ...

    def on_held(self, sequence: SequenceId) -> None:
        """Its prefill is complete and its first token chosen."""
        ...

    def on_ended(self, sequence: SequenceId) -> None:
        """Its first token finished it, or it failed: no handoff is needed."""
        ...

    def retarget(self, sequence: SequenceId, epoch: Epoch, target: pb.DecodeTarget | None) -> None:
        """After a refusal or failure: another target, or none, which means decode here."""
        ...

    def holds(self, sequence: SequenceId) -> bool:
        """Whether blocks of the sequence may still be read by a push of its handoff, though it was given up."""
        ...

    def cancel(self, sequence: SequenceId) -> bool:
        """Give the sequence up. True if it was in a handoff: its blocks are freed here when safe."""
        ...


class Migrations(Protocol):
    """Running sequences that move to other workers. Every method returns at once."""

    @property
    def open(self) -> int:
        """How many have not ended."""
        ...

    def begin(self, sequence: SequenceId, epoch: Epoch, target: pb.DecodeTarget) -> None:
        """Move a sequence, if it runs here under this epoch; the router hears how it went."""
        ...

    def on_ended(self, sequence: SequenceId) -> None:
        """The sequence finished, failed, was cancelled, or is the target's now."""
        ...

    def deny(self, sequence: SequenceId, epoch: Epoch) -> None:
        """The router will not grant: the sequence goes on here."""
        ...


class Fabric(Protocol):
    """What is known of the links to other workers. Every method returns at once."""

    def follow(self, link: Hearer, peers: pb.Peers) -> None:
        """The router at the end of `link` names the peers of this worker."""
        ...

    def forget(self, link: Hearer) -> None:
        """That router is lost, and what it named with it."""
        ...

    def suspect(self, boot: BootId) -> None:
        """Something sent to this peer failed: look at the link soon."""
        ...

    def heard(self) -> None:
        """A peer's probe has ended well here."""
        ...

    def unready(self, role: Role) -> list[str]:
        """Why this worker cannot do the part of its role; empty if it can."""
        ...


class Arrivals(Protocol):
    """Reservations for sequences prefilled elsewhere; what the KvPeer service calls."""

    def meet(self, hello: pb.PeerHello) -> None:
        """A peer introduces itself; senders must before they reserve."""
        ...

    def expects(self, sequence: SequenceId) -> bool:
        """Whether blocks are held here for a handoff of `sequence`."""
        ...

    async def supersede(self, sequence: SequenceId, epoch: Epoch) -> None:
        """`epoch` has been granted: give up what older ones reserved. Raises ReservationRefusedError if it cannot."""
        ...

    async def reserve(self, request: pb.ReserveRequest) -> pb.ReserveReply: ...

    async def commit(self, request: pb.CommitRequest) -> pb.CommitReply: ...

    async def grant(self, sequence: SequenceId, epoch: Epoch, *, new_epoch: Epoch) -> None:
        """The router makes a migrated sequence ours. Raises SluiceError if it is not here."""
        ...

    async def cancel(self, sequence: SequenceId, epoch: Epoch) -> None:
        """The router gave a sequence up that may be parked here."""
        ...

    async def abandon(self, request: pb.AbandonRequest) -> pb.AbandonReply: ...

    async def renew(self, request: pb.RenewRequest) -> pb.RenewReply: ...

    @property
    def leases(self) -> int:
        """Reservations held for others now, quarantined ones included."""
        ...
