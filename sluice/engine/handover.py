"""Blocks of sequences that are being prefilled by another worker: reserve, attach, cancel.

Decides whether there is room and which tokens need not be sent. Never frees a reservation on its
own: the other worker may still be writing, and only `worker/` knows when it has stopped.
Next: `scheduler.py`, which decodes what is attached.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sluice.domain.block_hash import hashes_of_blocks
from sluice.domain.ids import BlockHash, BlockId, SequenceId
from sluice.domain.kv import KvGeometry
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import EngineLimits, Reservation
from sluice.engine.scheduler import Scheduler
from sluice.errors import IllegalTransitionError, InvalidRequestError, ReservationRefusedError


@dataclass(frozen=True, slots=True)
class Reserved:
    """What a reservation holds: the block table, and which tokens it was made for."""

    reservation: Reservation
    tokens: int
    unit_hashes: tuple[BlockHash, ...]


class Handover:
    """All reservations of one engine."""

    def __init__(self, *, scheduler: Scheduler, geometry: KvGeometry, limits: EngineLimits) -> None:
        self._scheduler = scheduler
        self._geometry = geometry
        self._limits = limits
        self._reserved: dict[SequenceId, Reserved] = {}

    @property
    def block_tables(self) -> Iterable[Sequence[BlockId]]:
        """Block tables of all reservations."""
        return [reserved.reservation.blocks for reserved in self._reserved.values()]

    def check_absent(self, sequence: SequenceId) -> None:
        """Raise InvalidRequestError if `sequence` has a reservation."""
        if sequence in self._reserved:
            remedy = "attach it, or give every sequence its own id"
            raise InvalidRequestError(field="sequence", problem=f"{sequence} is reserved here", remedy=remedy)

    def reserve(self, sequence: SequenceId, *, tokens: int, unit_hashes: Sequence[BlockHash]) -> Reservation:
        """Hold blocks for `tokens` tokens. Raises InvalidRequestError or ReservationRefusedError."""
        self._check(sequence, tokens)
        pool = self._scheduler.pool
        full = tokens // self._geometry.block_tokens
        shared = pool.find(hashes_of_blocks(unit_hashes, block_tokens=self._geometry.block_tokens)[:full])
        missing = self._geometry.blocks_for(tokens) - len(shared)
        if not pool.can_take(missing + self._scheduler.headroom_blocks(), beside=shared):
            what = f"{missing} blocks are needed and {pool.available_blocks} can be given"
            raise ReservationRefusedError(f"no room for sequence {sequence}: {what}")
        pool.share(shared)
        reservation = Reservation(
            sequence=sequence,
            blocks=(*shared, *pool.take(missing)),
            cached_tokens=len(shared) * self._geometry.block_tokens,
        )
        self._reserved[sequence] = Reserved(reservation, tokens, tuple(unit_hashes))
        return reservation

    def attach(self, state: SequenceState, *, computed: int, now_s: float = 0.0) -> None:
        """The reserved sequence goes on here behind its first `computed` tokens.

        Raises IllegalTransitionError without a reservation, InvalidRequestError if `state` is not
        what was reserved; the reservation then stands as before.
        """
        reserved = self._find(state.sequence, event="attach")
        if not computed <= reserved.tokens or not computed < len(state.tokens):
            problem = f"is {computed} of {len(state.tokens)} tokens, {reserved.tokens} were reserved"
            raise InvalidRequestError(field="computed", problem=problem, remedy="reserve room for the KV that is sent")
        common = min(len(state.unit_hashes), len(reserved.unit_hashes))
        if state.unit_hashes[:common] != reserved.unit_hashes[:common]:
            remedy = "attach the sequence that was reserved"
            raise InvalidRequestError(field="unit_hashes", problem="name another prompt", remedy=remedy)
        self._scheduler.check_new(state)
        self._scheduler.adopt(state, blocks=list(reserved.reservation.blocks), computed=computed, now_s=now_s)
        del self._reserved[state.sequence]

    def cancel(self, sequence: SequenceId) -> None:
        """Give the blocks back. Raises IllegalTransitionError without a reservation."""
        reserved = self._find(sequence, event="cancel_reservation")
        del self._reserved[sequence]
        self._scheduler.pool.drop(reserved.reservation.blocks)

    def _find(self, sequence: SequenceId, *, event: str) -> Reserved:
        reserved = self._reserved.get(sequence)
        if reserved is None:
            raise IllegalTransitionError(state="UNKNOWN", event=f"{event} of sequence {sequence}")
        return reserved

    def _check(self, sequence: SequenceId, tokens: int) -> None:
        self.check_absent(sequence)
        longest = self._limits.sequence_tokens_max
        if not 0 < tokens < longest:
            remedy = f"reserve from 1 to {longest - 1} tokens"
            raise InvalidRequestError(field="tokens", problem=f"is {tokens}", remedy=remedy)
        if len(self._reserved) + len(self._scheduler.running) >= self._limits.batch_sequences_max:
            raise ReservationRefusedError(f"no room for sequence {sequence}: the batch is full")
