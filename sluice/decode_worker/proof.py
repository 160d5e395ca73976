"""What must be true before received KV is used: right sequence, right sizes, right bytes.

Raises TransferError naming what does not match; changes nothing. Next: `arrivals.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sluice.domain.ids import BlockHash, Epoch, SequenceId
from sluice.domain.kv import KvGeometry
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import Reservation
from sluice.errors import StaleEpochError, TransferError
from sluice.kv_transfer import capability
from sluice.kv_transfer.checksum import crc32_of_target, receiver_plan
from sluice.kv_transfer.plan import plan_bytes
from sluice.kv_transfer.transport import Descriptors
from sluice.wire.gen import sluice_pb2 as pb


def check_right(request: pb.CommitRequest, *, grant: bytes, root: BlockHash, is_canary: bool) -> None:
    """Who commits holds the reservation's capability, for its tenant, and commits what was reserved for."""
    if not capability.is_same(request.grant, grant) or request.state.root != root:
        raise TransferError("the commit's grant is not of this reservation and its tenant")
    if request.canary != is_canary:
        raise TransferError("a canary is reserved and committed as one, a request as a request")


def check_state(state: SequenceState, *, sequence: SequenceId, epoch: Epoch, computed: int) -> None:
    """The committed state is of the reserved sequence, of its owner, and ahead of the KV of `computed` tokens."""
    if state.sequence != sequence:
        raise TransferError(f"sequence {state.sequence} was committed into the reservation of {sequence}")
    if state.epoch != epoch:
        raise StaleEpochError(f"epoch {state.epoch} was committed, epoch {epoch} was reserved")
    if computed >= len(state.tokens):
        raise TransferError(f"{len(state.tokens)} tokens were committed over the KV of {computed}; send one more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a commit must prove: the KV of tokens [cached, computed), from `source` into the reserved blocks."""

    source: KvGeometry
    target: KvGeometry
    reservation: Reservation
    computed: int

    def bytes_of(self, group: int) -> int:
        """How many bytes of a layer group of the sender's must have come."""
        tokens = max(0, self.computed - self.reservation.cached_tokens)
        return plan_bytes(source=self.source, target=self.target, group=group, tokens=tokens)

    def ranges_of(self, group: int) -> Descriptors:
        """Where they must have been written."""
        return receiver_plan(
            source=self.source,
            target=self.target,
            group=group,
            target_blocks=self.reservation.blocks,
            first=self.reservation.cached_tokens,
            end=max(self.computed, self.reservation.cached_tokens),
        )


def check_sizes(proofs: Sequence[pb.GroupProof], expected: Expected) -> None:
    """Every layer group arrived whole, as far as its sender counted. Takes no time, however long the sequence."""
    groups = expected.source.groups
    if len(proofs) != groups:
        raise TransferError(f"{len(proofs)} layer groups were sent, {groups} are needed")
    for group, proof in enumerate(proofs):
        if proof.bytes != (needed := expected.bytes_of(group)):
            raise TransferError(f"layer group {group}: {proof.bytes} bytes were sent, {needed} are needed")


def check_contents(proofs: Sequence[pb.GroupProof], expected: Expected, view: memoryview) -> None:
    """The bytes in our region are those that were sent. Reads all of them: not for the event loop."""
    for group, proof in enumerate(proofs):
        if (found := crc32_of_target(view, expected.ranges_of(group))) != proof.crc32:
            raise TransferError(f"layer group {group}: checksum {found:08x} here, {proof.crc32:08x} at the sender")
