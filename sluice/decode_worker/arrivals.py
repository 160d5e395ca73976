"""Sequences being prefilled elsewhere for this worker: reserved, then committed or let go.

The legal moves are the RECEIVER rows of `kv_transfer/handoff.py`; this file feeds the table what
senders, leases and the transports say, and carries out the effects. Blocks are never freed while a
write under their grant may still run (law L4); data is used only after Commit (law L5).
Lives on the event loop. Next: `proof.py`.
"""

import asyncio
import logging
import math
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar, assert_never

from sluice import clock
from sluice.config.worker import TransferConfig
from sluice.decode_worker import proof
from sluice.decode_worker.host import Host
from sluice.decode_worker.readiness import wait_ready
from sluice.decode_worker.received import record
from sluice.domain.ids import BlockHash, BootId, Epoch, SequenceId
from sluice.domain.kv import KvGeometry
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import Reservation
from sluice.errors import ReservationRefusedError, SluiceError, TransferError
from sluice.kv_transfer import capability
from sluice.kv_transfer.fingerprint import Incompatible, KvIdentity, compare
from sluice.kv_transfer.handoff import Receiver, ReceiverEffect, ReceiverEvent, ReceiverState
from sluice.kv_transfer.lease import LeaseTable
from sluice.kv_transfer.mover_contract import KvMover
from sluice.kv_transfer.plan import block_ranges
from sluice.telemetry.metrics import WorkerMetrics
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")
Key = tuple[BootId, int]  # the sender's incarnation and its transfer number
REAP_EVERY_S: Final = 0.5
SILENT_AFTER_S: Final = 5.0  # after a process has been replaced, when nothing it sent can still be on its way
SENDER_SAYS_DONE: Final = frozenset({ReceiverEvent.COMMITTED, ReceiverEvent.PARKED, ReceiverEvent.SENDER_STOPPED})
REMEMBERED_MAX: Final = 16_384  # senders' geometries, and transfers that have ended


@dataclass(slots=True, kw_only=True)
class Arrival:
    """One reservation and who may write into it."""

    key: Key
    sequence: SequenceId
    epoch: Epoch
    room_tokens: int
    computed: int = 0  # tokens whose KV is here, once a commit has been believed
    source: KvGeometry
    reservation: Reservation
    root: BlockHash  # of the tenant it was reserved for
    secret: bytes
    grant: bytes  # what whoever writes or commits presents: the secret, bound to the tenant
    is_canary: bool
    parked: SequenceState | None = None  # a migration's state, until the router grants it
    protocol: Receiver = field(default_factory=Receiver)
    is_committing: bool = False  # its commit is being checked: what else happens waits for the verdict


class ArrivalTable:
    """Every handoff this worker is the destination of. Implements `worker.stages.Arrivals`."""

    def __init__(
        self,
        *,
        shell: Host,
        mover: KvMover,
        identity: KvIdentity,
        settings: TransferConfig,
        metrics: WorkerMetrics,
        view: memoryview | None,
    ) -> None:
        """`view` is this worker's KV region, for checksums; None when it is on a device."""
        self._shell = shell
        self._mover = mover
        self._identity = identity
        self._metrics = metrics
        self._now_s = shell.now_s
        self._view = view
        self._lease_s = settings.lease_s
        self._quarantined_bytes_max = settings.quarantine_fraction_max * identity.region_bytes
        self._leases: LeaseTable[Key] = LeaseTable(lease_s=settings.lease_s, extension_s=settings.lease_s * 2 / 3)
        self._arrivals: dict[Key, Arrival] = {}
        self._being_held: dict[SequenceId, tuple[Key, asyncio.Event]] = {}
        self._senders: OrderedDict[BootId, KvGeometry] = OrderedDict()
        self._ended: OrderedDict[Key, bool] = OrderedDict()  # and whether they were attached
        self._replaced_s: OrderedDict[BootId, float] = OrderedDict()  # senders whose successors have joined, and when

    @property
    def leases(self) -> int:
        return len(self._arrivals)

    @property
    def quarantined(self) -> tuple[Arrival, ...]:
        """Reservations that were given up; their blocks wait until their sender's writes have stopped."""
        return tuple(a for a in self._arrivals.values() if a.protocol.state is ReceiverState.QUARANTINED)

    def meet(self, hello: pb.PeerHello) -> None:
        """Remember a sender's geometry, if KV can flow from it."""
        geometry = convert.geometry_from_wire(hello.geometry)
        theirs = KvIdentity(
            model_fingerprint=hello.model_fingerprint,
            wire_version=hello.wire_version,
            geometry=geometry,
            region_bytes=hello.region_bytes,
        )
        verdict = compare(self._identity, theirs)
        if isinstance(verdict, Incompatible):
            log.warning("%s cannot send KV here: %s", hello.worker, verdict)
            return
        remember(self._senders, BootId(hello.boot), value=geometry)

    def on_sender_replaced(self, boot: BootId) -> None:
        """This incarnation of a sender has ended. It cannot say any more that its writes have stopped; time does."""
        remember(self._replaced_s, boot, value=self._now_s())

    # ---------------------------------------------------------------- what the router's grants mean

    def expects(self, sequence: SequenceId) -> bool:
        return sequence in self._being_held or any(a.sequence == sequence for a in self._arrivals.values())

    async def supersede(self, sequence: SequenceId, epoch: Epoch) -> None:
        if (being_held := self._being_held.get(sequence)) is not None:
            await being_held[1].wait()
        for arrival in [a for a in self._arrivals.values() if a.sequence == sequence]:
            if arrival.epoch >= epoch or arrival.is_committing:
                raise ReservationRefusedError("another transfer of this sequence has not ended here yet")
            await self._feed(arrival, ReceiverEvent.CANCELLED)
            if not self._mover.revoke(arrival.grant):
                raise ReservationRefusedError("the sequence's last owner may still be writing here")
            await self._feed(arrival, ReceiverEvent.WRITES_STOPPED)

    # ---------------------------------------------------------------- what senders ask

    async def reserve(self, request: pb.ReserveRequest) -> pb.ReserveReply:
        """The answer to a Reserve, however often and however late the network delivers it."""
        key = (BootId(request.from_boot), request.transfer)
        for held_key, is_answered in list(self._being_held.values()):
            if held_key == key:  # the same message twice: one answer serves both
                await is_answered.wait()
        try:
            arrival = self._arrivals.get(key) or await self._hold(key, request)
        except SluiceError as error:
            self._note_end(key)
            return pb.ReserveReply(granted=False, refusal=str(error))
        if not arrival.is_canary:
            await wait_ready(arrival.reservation)
        return pb.ReserveReply(
            granted=True,
            blocks=arrival.reservation.blocks,
            cached_tokens=arrival.reservation.cached_tokens,
            grant=arrival.secret,
            lease_s=self._lease_s,
        )

    async def commit(self, request: pb.CommitRequest) -> pb.CommitReply:
        key = (BootId(request.from_boot), request.transfer)
        if self._ended.get(key):
            return pb.CommitReply(attached=True)  # the same message twice
        arrival = self._arrivals.get(key)
        if arrival is None or arrival.is_committing:
            return pb.CommitReply(attached=False, refusal="no such reservation is open here")
        if arrival.parked is not None:
            return pb.CommitReply(attached=True)  # the same message twice
        arrival.is_committing = True
        started_ns = clock.wall_ns()
        try:
            state = convert.state_from_wire(request.state)
            await self._check(arrival, state, request)
            if request.canary:
                return await self._answer_canary(arrival, state)
            if request.parked:
                await self._feed(arrival, ReceiverEvent.PARKED)
                arrival.parked = state
            else:
                await self._feed(arrival, ReceiverEvent.COMMITTED)
                await self._enter_batch(arrival, state)
        except SluiceError as error:
            log.warning("commit of sequence %d refused: %s", arrival.sequence, error)
            if not arrival.protocol.has_ended:
                await self._feed(arrival, ReceiverEvent.COMMIT_INVALID)
            return pb.CommitReply(attached=False, refusal=str(error))
        finally:
            arrival.is_committing = False
        record(self._metrics, self._shell.info.worker, state, request, started_ns=started_ns)
        return pb.CommitReply(attached=True)

    async def grant(self, sequence: SequenceId, epoch: Epoch, *, new_epoch: Epoch) -> None:
        """The router makes a parked sequence ours. Raises SluiceError if it is not parked here."""
        parked = [one for one in self._arrivals.values() if one.sequence == sequence and one.epoch == epoch]
        arrival = parked[0] if parked else None
        if arrival is None or arrival.parked is None:
            raise ReservationRefusedError("the sequence is not parked on this worker")
        state = replace(arrival.parked, epoch=new_epoch)
        await self._feed(arrival, ReceiverEvent.GRANTED)
        await self._enter_batch(arrival, state)

    async def cancel(self, sequence: SequenceId, epoch: Epoch) -> None:
        """The router gave the sequence up: a parked one is let go; others end with their sender."""
        for arrival in list(self._arrivals.values()):
            is_parked = arrival.protocol.state is ReceiverState.PARKED
            if arrival.sequence == sequence and arrival.epoch <= epoch and is_parked:
                await self._feed(arrival, ReceiverEvent.CANCELLED)

    async def abandon(self, request: pb.AbandonRequest) -> pb.AbandonReply:
        key = (BootId(request.from_boot), request.transfer)
        arrival, has_stopped = self._arrivals.get(key), request.writes_stopped
        if arrival is None and has_stopped:
            self._note_end(key)
        elif arrival is not None and not arrival.is_committing:
            await self._feed(arrival, ReceiverEvent.SENDER_STOPPED if has_stopped else ReceiverEvent.SENDER_GAVE_UP)
        return pb.AbandonReply()

    async def renew(self, request: pb.RenewRequest) -> pb.RenewReply:
        boot = BootId(request.from_boot)
        keys = [(boot, transfer) for transfer in request.transfers]
        lost = self._leases.renew(keys, now_s=self._now_s())
        for key in set(keys).difference(lost) & self._arrivals.keys():
            self._mover.renew(self._arrivals[key].grant, lease_s=self._leases.extension_s)
        return pb.RenewReply(lost=[transfer for _, transfer in lost], lease_s=self._lease_s)

    async def reap_forever(self) -> None:
        """End leases that ran out, and free what no write can touch any more."""
        while True:
            await asyncio.sleep(REAP_EVERY_S)
            for key in self._leases.expire(now_s=self._now_s()):
                arrival = self._arrivals.get(key)  # or it has ended while another one was let go
                if arrival is not None and not arrival.is_committing:
                    log.warning("lease of sequence %d from %s ran out", arrival.sequence, key[0])
                    await self._feed(arrival, ReceiverEvent.LEASE_EXPIRED)
            for arrival in list(self._arrivals.values()):
                if arrival.protocol.state is not ReceiverState.QUARANTINED:
                    continue
                is_silent = self._now_s() - self._replaced_s.get(arrival.key[0], math.inf) > SILENT_AFTER_S
                if self._mover.revoke(arrival.grant) or is_silent:
                    await self._feed(arrival, ReceiverEvent.WRITES_STOPPED)
                elif self._is_over_bound():
                    await self._feed(arrival, ReceiverEvent.BOUND_REACHED)
            if self._is_over_bound():  # our own pushes count too: a peer that never answers holds our blocks
                self._shell.give_up_worker("too much KV memory is in quarantine")

    # ---------------------------------------------------------------- the steps

    def _is_over_bound(self) -> bool:
        return self._mover.quarantined_bytes > self._quarantined_bytes_max

    def _admissible(self, request: pb.ReserveRequest) -> KvGeometry:
        """The sender's geometry. Raises ReservationRefusedError with the reason."""
        if (BootId(request.from_boot), request.transfer) in self._ended:
            raise ReservationRefusedError("this transfer has ended: a new one has a new number")
        if request.to_boot != self._shell.info.boot:
            raise ReservationRefusedError("this worker has restarted since it was chosen")
        if not self._shell.standing.admits_work:
            raise ReservationRefusedError(f"this worker is {self._shell.standing.lifecycle.value}")
        source = self._senders.get(BootId(request.from_boot))
        if source is None:
            raise ReservationRefusedError("a handshake with compatible KV comes first")
        sequence = SequenceId(request.sequence)
        epoch = self._shell.epoch_of(sequence)
        if epoch is not None and epoch >= request.epoch:
            raise ReservationRefusedError(f"the sequence already lives here under epoch {epoch}")
        if self.expects(sequence):
            raise ReservationRefusedError("another transfer of this sequence has not ended here yet")
        return source

    def _note_end(self, key: Key) -> None:
        """Its number never begins again: a message of it that comes now is late, or a copy."""
        if key not in self._ended:
            remember(self._ended, key, value=False)

    async def _hold(self, key: Key, request: pb.ReserveRequest) -> Arrival:
        """Make the reservation. Raises SluiceError saying why not."""
        sequence = SequenceId(request.sequence)
        await self.supersede(sequence, Epoch(request.epoch))
        source = self._admissible(request)
        hashes = convert.hashes_from_wire(request.unit_hashes)
        _, is_answered = self._being_held[sequence] = (key, asyncio.Event())
        try:
            reservation = await self._shell.ask(
                lambda engine: engine.reserve(sequence, tokens=request.tokens, unit_hashes=hashes)
            )
        finally:
            del self._being_held[sequence]
            is_answered.set()
        geometry = self._identity.geometry
        secret = capability.fresh_secret()
        fresh = reservation.blocks[reservation.cached_tokens // geometry.block_tokens :]
        arrival = Arrival(
            key=key,
            sequence=sequence,
            epoch=Epoch(request.epoch),
            room_tokens=request.tokens,
            source=source,
            reservation=reservation,
            root=BlockHash(request.root),
            secret=secret,
            grant=capability.bind(secret, root=BlockHash(request.root)),
            is_canary=request.canary,
        )
        try:
            if key in self._ended:
                raise ReservationRefusedError("the sender gave the transfer up meanwhile")
            ranges = block_ranges(geometry, fresh)
            self._mover.allow(grant=arrival.grant, ranges=ranges, lease_s=self._lease_s)
            self._leases.grant(key, now_s=self._now_s())
        except SluiceError:
            self._mover.end_grant(arrival.grant)
            await self._shell.ask(lambda engine: engine.cancel_reservation(sequence))
            raise
        self._arrivals[key] = arrival
        return arrival

    async def _check(self, arrival: Arrival, state: SequenceState, request: pb.CommitRequest) -> None:
        """Whether this commit may be believed. Raises SluiceError saying why not."""
        if arrival.protocol.state is not ReceiverState.RESERVED:
            raise ReservationRefusedError("the reservation has already been given up")
        if not self._leases.is_live(arrival.key, now_s=self._now_s()):
            raise ReservationRefusedError("the lease ran out before the commit")
        proof.check_right(request, grant=arrival.grant, root=arrival.root, is_canary=arrival.is_canary)
        computed = request.computed
        proof.check_state(state, sequence=arrival.sequence, epoch=arrival.epoch, computed=computed)
        if computed > arrival.room_tokens:
            raise TransferError(f"KV of {computed} tokens was sent into room for {arrival.room_tokens}")
        expected = proof.Expected(
            source=arrival.source,
            target=self._identity.geometry,
            reservation=arrival.reservation,
            computed=computed,
        )
        proof.check_sizes(request.proofs, expected)
        if request.checksummed and self._view is not None:
            await asyncio.to_thread(proof.check_contents, request.proofs, expected, self._view)
        arrival.computed = computed

    async def _enter_batch(self, arrival: Arrival, state: SequenceState) -> None:
        """The engine decodes it from here. Raises SluiceError; its blocks are free again then."""
        try:
            if not self._shell.adopt(state):
                raise ReservationRefusedError(f"router {state.router} is not connected to this worker")
            await self._shell.ask(lambda engine: engine.attach(state, computed=arrival.computed))
        except SluiceError:
            self._shell.disown(state.sequence)
            await self._shell.ask(lambda engine: engine.cancel_reservation(state.sequence))
            raise
        remember(self._ended, arrival.key, value=True)

    async def _answer_canary(self, arrival: Arrival, state: SequenceState) -> pb.CommitReply:
        """Our engine's next token over a peer's canary; nothing of it stays. Raises SluiceError."""
        canary = self._shell.canary
        if canary.tokens and state.tokens[-1] != canary.tokens[0]:
            raise TransferError(f"canary: token {state.tokens[-1]} there, {canary.tokens[0]} here")
        await self._feed(arrival, ReceiverEvent.COMMITTED)
        token = await canary.go_on(state, computed=arrival.computed)
        self._shell.fabric.heard()
        remember(self._ended, arrival.key, value=True)
        return pb.CommitReply(attached=True, canary_token=token)

    async def _feed(self, arrival: Arrival, event: ReceiverEvent) -> None:
        """Apply one event and do what follows from it."""
        effects = arrival.protocol.on(event)
        if arrival.protocol.has_ended:
            del self._arrivals[arrival.key]
            self._note_end(arrival.key)
            self._shell.note_empty()
        for effect in effects:
            match effect:
                case ReceiverEffect.CLOSE_GRANT if event in SENDER_SAYS_DONE:
                    self._mover.end_grant(arrival.grant)
                case ReceiverEffect.CLOSE_GRANT:
                    self._mover.revoke(arrival.grant)
                case ReceiverEffect.END_LEASE:
                    self._leases.release(arrival.key)
                case ReceiverEffect.FREE_BLOCKS:
                    self._mover.end_grant(arrival.grant)
                    await self._shell.ask(lambda engine: engine.cancel_reservation(arrival.sequence))
                case ReceiverEffect.ENTER_BATCH | ReceiverEffect.REFUSE_COMMIT:
                    pass  # the answer to the commit: `commit` does it
                case ReceiverEffect.RESTART_WORKER:
                    self._shell.give_up_worker("KV blocks in quarantine never became safe")
                case _:
                    assert_never(effect)


def remember(memory: OrderedDict[K, V], key: K, *, value: V) -> None:
    """Add to a bounded memory; the oldest entry makes room."""
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > REMEMBERED_MAX:
        memory.popitem(last=False)
