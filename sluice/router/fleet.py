"""The workers connected to this router: who they are, how loaded, what this router runs on them.

Owns members, the prefix index and the table policies see; soft state, rebuilt from what workers say when they dial in.
Never decides placement and never writes to the network itself (`worker_link.py` does).
Next: `dispatcher.py`.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

from sluice.capacity.capacity_book import CapacityBook, ClassKey
from sluice.domain.ids import SequenceId, WorkerId
from sluice.domain.load import WorkerInfo, WorkerLoad
from sluice.domain.role import Lifecycle, Role
from sluice.errors import IncompatiblePeerError, OverloadedError
from sluice.policy.fleet_table import FleetTable
from sluice.policy.prefix_index import PrefixIndex
from sluice.router.books import Books
from sluice.router.worker_link import WorkerLink
from sluice.wire.gen import sluice_pb2 as pb

WORKERS_MAX: Final = 4096
CANCELLED_MAX: Final = 4096
CANCEL_AGAIN_S: Final = 1.0
NAMED_MAX: Final = 3
_NO_SLOTS: Final[frozenset[int]] = frozenset()


class Member:
    """One incarnation of a worker, and the router's books about it."""

    __slots__ = (
        "_cancelled",
        "_missing",
        "books",
        "heard_s",
        "info",
        "link",
        "load",
        "sequences",
        "slot",
    )

    def __init__(self, info: WorkerInfo, link: WorkerLink, *, table: FleetTable, slot: int, now_s: float) -> None:
        self.info = info
        self.link = link
        self.slot = slot
        self.load = WorkerLoad(lifecycle=Lifecycle.STARTING)
        self.heard_s = now_s
        self.sequences: set[SequenceId] = set()
        self.books = Books(table, slot, info, self.load)
        self._cancelled: OrderedDict[tuple[int, int], float] = OrderedDict()  # strays, and when it was told
        self._missing: dict[SequenceId, int] = {}  # missed by rolls, and how much it had been told at the first

    @property
    def name(self) -> str:
        return self.info.worker

    @property
    def is_ready(self) -> bool:
        """Whether the worker admits work and can do its part."""
        return self.load.is_ready

    def hold(self, sequence: SequenceId, *, prefill_tokens: int, context_tokens: int, now_s: float) -> None:
        """A sequence is sent here: `prefill_tokens` to compute, KV of `context_tokens` to keep."""
        self.sequences.add(sequence)
        self._missing.pop(sequence, None)
        self.books.sent(
            sequence,
            prefill_tokens=prefill_tokens,
            context_tokens=context_tokens,
            sequences=len(self.sequences),
            now_s=now_s,
        )

    def release(self, sequence: SequenceId) -> None:
        """A sequence left. Unknown ones are ignored."""
        self.sequences.discard(sequence)
        self.books.gone(sequence, sequences=len(self.sequences))

    def moved_away(self, sequence: SequenceId, *, context_tokens: int) -> None:
        """A sequence has another owner: what it took here is free before the next heartbeat says so."""
        self.sequences.discard(sequence)
        self.books.moved_away(
            sequence, context_tokens=context_tokens, sequences=len(self.sequences), now_s=self.heard_s
        )

    def cancel(self, sequence: int, epoch: int) -> None:
        """Tell the worker to drop a sequence it may hold."""
        self._cancelled[sequence, epoch] = self.heard_s
        self._cancelled.move_to_end((sequence, epoch))
        if len(self._cancelled) > CANCELLED_MAX:
            self._cancelled.popitem(last=False)
        self.link.send(pb.RouterMessage(cancel=pb.Cancel(sequence=sequence, epoch=epoch)))

    def cancel_stray(self, sequence: int, epoch: int, *, now_s: float) -> None:
        """It has something that is not its own any more: tell it to drop that, but not with every token that comes."""
        if now_s >= self._cancelled.get((sequence, epoch), -math.inf) + CANCEL_AGAIN_S:
            self.cancel(sequence, epoch)

    def forgotten(self, missing: AbstractSet[SequenceId], *, heard: int) -> list[SequenceId]:
        """What a roll misses, and an earlier one missed too, since which the worker has heard all it was told then.

        `heard` is how many of our messages it had read; a sequence still on its way to it is not missing.
        """
        earlier, told = self._missing, self.link.sent
        self._missing = {sequence: earlier.get(sequence, told) for sequence in missing}
        return sorted(sequence for sequence in missing if heard >= earlier.get(sequence, heard + 1))

    def beat(self, load: WorkerLoad, *, now_s: float) -> None:
        """A heartbeat arrived."""
        self.load = load
        if load.role is not None and load.role is not self.info.role:
            self.info = replace(self.info, role=load.role)
        self.books.beat(self.info, load, is_ready=self.is_ready, sequences=len(self.sequences), now_s=now_s)

    def drain_left_s(self, *, now_s: float) -> float:
        """Until a draining worker's deadline, as it said in its latest heartbeat; 0 if it has none."""
        left_s = self.load.drain_left_s
        return max(1e-3, left_s - (now_s - self.heard_s)) if left_s else 0.0

    def target(self) -> pb.DecodeTarget:
        """This worker, as named to the one that hands off to it."""
        return pb.DecodeTarget(worker=self.info.worker, boot=self.info.boot, kv_address=self.info.kv_address)

    def image_target(self) -> pb.DecodeTarget:
        """Where this worker takes in embeddings, as named to encode workers; it must read images."""
        assert self.info.image_boot is not None, "only workers that read images are shown any"
        target = pb.DecodeTarget(worker=self.info.worker, boot=self.info.image_boot)
        target.kv_address = self.info.image_address
        return target


class Fleet:
    """All connected workers. One owner, one event loop."""

    def __init__(self, *, expiry_s: float) -> None:
        self.index = PrefixIndex()
        self.capacity = CapacityBook()
        self.table = FleetTable()  # what policies see; its slots are the members'
        self._expiry_s = expiry_s
        self._members: dict[int, Member] = {}  # by slot

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    @property
    def fingerprint(self) -> str | None:
        """The model fingerprint every connected worker shares; None while there is no worker."""
        return next((member.info.model_fingerprint for member in self.speakers), None)

    @property
    def speakers(self) -> Iterator[Member]:
        """Those that make tokens."""
        return (member for member in self if member.info.role is not Role.ENCODE)

    @property
    def encoders(self) -> Iterator[Member]:
        """Those that make embeddings."""
        return (member for member in self if member.info.role is Role.ENCODE)

    def why_not_serving(self) -> str:
        """Why no worker admits work; empty when one does."""
        if any(member.is_ready for member in self.speakers):
            return ""
        whys = [f"{member.name}: {member.load.why_not_ready}" for member in self.speakers]
        more = f" and {len(whys) - NAMED_MAX} more" if len(whys) > NAMED_MAX else ""
        return f"no worker is ready ({'; '.join(whys[:NAMED_MAX]) or 'none is connected'}{more})"

    @property
    def sequence_tokens_max(self) -> int | None:
        """The longest sequence any connected worker can hold; None while there is no worker."""
        return max((member.info.sequence_tokens_max for member in self.speakers), default=None)

    @property
    def image_tokens_max(self) -> int | None:
        """The most embeddings that any connected worker holds for a prompt; None where nobody says."""
        return max((member.info.image_tokens_max for member in self.speakers), default=0) or None

    @property
    def picture_tokens_max(self) -> int | None:
        """The largest image, in embeddings, that any connected encode worker has room for; None without any."""
        infos = [member.info for member in self.encoders]
        return max((min(one.sequence_tokens_max, one.blocks * one.block_tokens) for one in infos), default=None)

    def at(self, slot: int) -> Member:
        """The member with this slot."""
        return self._members[slot]

    def find(self, worker: WorkerId) -> Member | None:
        """The connected incarnation of a worker, if any."""
        return next((member for member in self if member.info.worker == worker), None)

    def slots_of(self, workers: AbstractSet[WorkerId]) -> frozenset[int]:
        """The slots of those of `workers` that are connected."""
        if not workers:
            return _NO_SLOTS
        return frozenset(slot for slot, member in self._members.items() if member.info.worker in workers)

    def join(self, info: WorkerInfo, link: WorkerLink, *, now_s: float) -> Member:
        """A worker dialled in; the caller has removed an older incarnation of it.

        Raises IncompatiblePeerError if it serves other weights than the workers already here,
        OverloadedError if there are too many workers.
        """
        assert self.find(info.worker) is None, "one member per worker"
        self._check_embeddings(info)
        if info.role is not Role.ENCODE and self.fingerprint not in {None, info.model_fingerprint}:
            raise IncompatiblePeerError(
                f"model_fingerprint: '{info.worker}' serves {info.model_fingerprint}, others {self.fingerprint};"
                " give every worker of a router the same weights"
            )
        if len(self) >= WORKERS_MAX:
            raise OverloadedError(f"{WORKERS_MAX} workers are connected, the limit", retry_after_s=60)
        slot = self.table.add(info.worker)
        member = self._members[slot] = Member(info, link, table=self.table, slot=slot, now_s=now_s)
        self.index.add_worker(slot, block_tokens=info.block_tokens)
        gpu_class = info.gpu_class or info.device
        part = f"{info.model} (vision)" if info.role is Role.ENCODE else info.model  # another half, another speed
        key = ClassKey(gpu_class=gpu_class, tensor_parallel=info.tensor_parallel, model=part)
        self.capacity.join(info.worker, key, info.step_terms)
        member.books.believe(self.capacity.curve(info.worker))
        return member

    def _check_embeddings(self, info: WorkerInfo) -> None:
        """Raises IncompatiblePeerError if its embeddings are not those of the workers already here."""
        known = {member.info.image_fingerprint for member in self if member.info.image_fingerprint}
        if info.image_fingerprint and known - {info.image_fingerprint}:
            raise IncompatiblePeerError(
                f"image_fingerprint: '{info.worker}' has {info.image_fingerprint}, others {known.pop()};"
                " give every worker the same model files and dtype"
            )

    def beat(self, member: Member, load: WorkerLoad, *, now_s: float) -> None:
        """A heartbeat arrived; its steps go into the curves of the worker and its class."""
        if self.capacity.note(member.info.worker, load.steps):
            member.books.believe(self.capacity.curve(member.info.worker))
        member.beat(load, now_s=now_s)
        bad = {link.peer_boot for link in load.links if link.problem}
        self.table.severed.pop(member.slot, None)
        if bad:
            slots = frozenset(slot for slot, other in self._members.items() if other.info.boot in bad)
            self.table.severed[member.slot] = slots

    def remove(self, member: Member) -> bool:
        """A worker is gone; False if it was not here any more."""
        if self._members.get(member.slot) is not member:
            return False
        del self._members[member.slot]
        self.table.remove(member.slot)
        self.index.remove_worker(member.slot)
        self.capacity.leave(member.info.worker)
        return True

    def silent(self, *, now_s: float) -> list[Member]:
        """Workers not heard of for too long."""
        return [member for member in self if member.heard_s < now_s - self._expiry_s]
