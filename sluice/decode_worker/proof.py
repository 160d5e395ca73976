"""What must be true before received KV is used: right sequence, right sizes, right bytes.

Raises TransferError naming what does not match; changes nothing. Next: `arrivals.py`.
"""

from collections.abc import Sequence

from sluice.domain.ids import Epoch, SequenceId
from sluice.domain.kv import KvGeometry
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import Reservation
from sluice.errors import StaleEpochError, TransferError
from sluice.kv_transfer.checksum import crc32_of_target, receiver_plan
from sluice.kv_transfer.transport import Descriptors
from sluice.wire.gen import sluice_pb2 as pb


def check_state(state: SequenceState, *, sequence: SequenceId, epoch: Epoch, computed: int) -> None:
    """The committed state is of the reserved sequence, of its owner, and ahead of the KV of `computed` tokens."""
    if state.sequence != sequence:
        raise TransferError(f"sequence {state.sequence} was committed into the reservation of {sequence}")
    if state.epoch != epoch:
        raise StaleEpochError(f"epoch {state.epoch} was committed, epoch {epoch} was reserved")
    if computed >= len(state.tokens):
        raise TransferError(f"{len(state.tokens)} tokens were committed over the KV of {computed}; send one more")


def expect(
    *, source: KvGeometry, target: KvGeometry, reservation: Reservation, computed: int
) -> tuple[Descriptors, ...]:
    """Per layer group of the sender, the ranges that must have been written here."""
    return tuple(
        receiver_plan(
            source=source,
            target=target,
            group=group,
            target_blocks=reservation.blocks,
            first=reservation.cached_tokens,
            end=max(computed, reservation.cached_tokens),
        )
        for group in range(source.groups)
    )


def check_bytes(proofs: Sequence[pb.GroupProof], expected: Sequence[Descriptors], view: memoryview | None) -> None:
    """Every layer group arrived whole; with a `view` of our region, its CRC-32 is right too. Slow: not for the loop."""
    if len(proofs) != len(expected):
        raise TransferError(f"{len(proofs)} layer groups were sent, {len(expected)} are needed")
    for group, (proof, ranges) in enumerate(zip(proofs, expected, strict=True)):
        if proof.bytes != ranges.total_bytes:
            raise TransferError(f"layer group {group}: {proof.bytes} bytes were sent, {ranges.total_bytes} are needed")
        if view is not None and (found := crc32_of_target(view, ranges)) != proof.crc32:
            raise TransferError(f"layer group {group}: checksum {found:08x} here, {proof.crc32:08x} at the sender")
