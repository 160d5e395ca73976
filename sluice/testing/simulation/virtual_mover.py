"""Moves KV between simulated workers in virtual time, with the vices of real transports.

A push copies its bytes at the moment it lands: late ones carry what the source holds *then* and
land though they were abandoned. Two kinds of receiver: fenced (tcp, shm: a closed grant stops the
bytes, and closing it is safe at once) and one-sided (nixl: nothing stops them, only the sender can
say that it has stopped). Satisfies `kv_transfer/mover_contract.py`. Next: `checkers.py`, told of every landing.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from sluice.clock import Clock
from sluice.domain.ids import BootId
from sluice.errors import TransferError
from sluice.kv_transfer.byte_copy import copy_ranges, is_inside
from sluice.kv_transfer.deadline import FLOOR_S
from sluice.kv_transfer.grants import GrantTable
from sluice.kv_transfer.link_stats import LinkStats
from sluice.kv_transfer.mover_commands import Fence
from sluice.kv_transfer.quarantine import Quarantine
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushResult, PushState
from sluice.testing.simulation.network import Network
from sluice.testing.simulation.virtual_loop import Process

NAME: Final = "virtual"
FENCED_S_MAX: Final = 2 * FLOOR_S
"""A transport with a link of its own ends every push by then, one way or the other."""
AFTERLIFE_S: Final = 0.05
"""How long bytes of a killed process may still be on their way."""

Landing = Callable[["VirtualMover", Push], None]


@dataclass(eq=False)
class Flight:
    """One push on its way."""

    push: Push
    since_s: float
    future: "Future[PushResult]"
    is_over: bool = False


@dataclass(eq=False)
class VirtualMover:
    """One worker's mover. `movers` are all workers' ever, by boot id; `on_landing` hears before bytes are written."""

    network: Network
    process: Process
    boot: BootId
    memory: bytearray
    movers: "dict[BootId, VirtualMover]"
    on_landing: Landing
    clock: Clock
    grants: GrantTable = field(init=False)
    flights: dict[int, Flight] = field(default_factory=dict)
    open_grants: set[bytes] = field(default_factory=set)
    _granted_bytes: dict[bytes, int] = field(default_factory=dict)
    _connected: set[BootId] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.quarantine = Quarantine(region_bytes=len(self.memory))
        self.grants = GrantTable(self.clock)
        self.stats = LinkStats()
        self.movers[self.boot] = self

    @property
    def quarantined_bytes(self) -> int:
        return self.quarantine.total_bytes

    def local_infos(self) -> tuple[tuple[str, bytes], ...]:
        return ((NAME, self.boot.encode()),)

    def connect(self, peer: PeerInfo) -> "Future[str]":
        answer = _running()
        self._later(self.network.loop.time() + 0.001, self._connect, peer, answer)
        return answer

    def disconnect(self, boot: BootId) -> None:
        self._connected.discard(boot)
        if not self.network.weather.is_one_sided:
            for flight in [flight for flight in self.flights.values() if flight.push.peer == boot]:
                self._end(flight, "disconnected")

    def push(self, push: Push, fence: Fence) -> "Future[PushResult]":
        fence.wait()
        flight = Flight(push, self.network.loop.time(), _running())
        self.flights[push.push] = flight
        target = self.movers.get(push.peer)
        if push.peer not in self._connected or target is None:
            self._later(self.network.loop.time(), self._end, flight, f"not connected to {push.peer}")
            return flight.future
        weather, rng, now_s = self.network.weather, self.network.rng, self.network.loop.time()
        at_s = self.network.arrival_s(self.process, target.process)
        at_s += self.network.on_wire_s(self.process, target.process, push.descriptors.total_bytes)
        if rng.random() < weather.late_push:
            at_s += weather.late_s * rng.random()
        is_whole = rng.random() >= weather.fail_push
        if not weather.is_one_sided and at_s > now_s + FENCED_S_MAX:
            # The link is given up at the deadline; no byte passes after that.
            self._later(now_s + FENCED_S_MAX, self._end, flight, "the deadline passed")
        self._later(at_s, self._land, flight, target, is_whole)
        return flight.future

    def abandon(self, push: int) -> None:
        if (flight := self.flights.get(push)) is not None:
            self.quarantine.push_abandoned(push, total_bytes=flight.push.descriptors.total_bytes)

    def allow(self, *, grant: bytes, ranges: Descriptors, lease_s: float) -> None:
        self.grants.allow(grant=grant, ranges=ranges, lease_s=lease_s)
        self.open_grants.add(grant)
        self._granted_bytes[grant] = ranges.total_bytes
        self.quarantine.grant_opened(grant, total_bytes=ranges.total_bytes)

    def renew(self, grant: bytes, *, lease_s: float) -> None:
        self.grants.renew(grant, lease_s=lease_s)

    def revoke(self, grant: bytes) -> bool:
        self.grants.revoke(grant)
        self.open_grants.discard(grant)
        if self.network.weather.is_one_sided:
            self.quarantine.grant_revoked(grant)
            return False
        self.quarantine.grant_ended(grant)
        return True

    def end_grant(self, grant: bytes) -> None:
        self.revoke(grant)
        self.quarantine.grant_ended(grant)

    def granted_bytes(self, grant: bytes) -> int:
        """How many bytes a grant has let others write."""
        return self._granted_bytes[grant]

    # ---------------------------------------------------------------- later

    def _later(self, at_s: float, function: Callable[..., object], *args: object) -> None:
        self.network.later(at_s, function, *args)

    def _connect(self, peer: PeerInfo, answer: "Future[str]") -> None:
        target = self.movers.get(peer.boot)
        if target is None or not target.process.is_alive:
            answer.set_exception(TransferError(f"{peer.worker} ({peer.boot}) does not answer"))
            return
        self._connected.add(peer.boot)
        self.stats.connected(worker=peer.worker, boot=peer.boot, transport=NAME)
        answer.set_result(NAME)

    def _land(self, flight: Flight, target: "VirtualMover", is_whole: bool) -> None:  # noqa: FBT001 - called by the loop
        """The bytes arrive, or a first part of them before the push fails."""
        if flight.is_over:
            return
        if not self.process.is_alive and self.network.loop.time() > self.process.died_s + AFTERLIFE_S:
            self._end(flight, "this process has died")
            return
        if not target.process.is_alive:
            self._end(flight, "the peer is gone")
            return
        ranges = flight.push.descriptors
        if not is_whole:
            half = len(ranges) // 2
            ranges = Descriptors(ranges.source[:half], ranges.target[:half], ranges.length[:half])
        assert is_inside(ranges, source_bytes=len(self.memory), target_bytes=len(target.memory))
        if not self.network.weather.is_one_sided:
            grant = target.grants.find(flight.push.grant)
            if grant is None or not grant.covers(ranges.target, ranges.length):
                self._end(flight, "the grant is unknown, was revoked or has run out")
                return
        self.on_landing(
            target, Push(push=flight.push.push, peer=target.boot, grant=flight.push.grant, descriptors=ranges)
        )
        copy_ranges(memoryview(self.memory), memoryview(target.memory), ranges)
        self._end(flight, "" if is_whole else "the link broke half-way")

    def _end(self, flight: Flight, reason: str) -> None:
        if flight.is_over:
            return
        flight.is_over = True
        self.flights.pop(flight.push.push, None)
        self.quarantine.push_ended(flight.push.push)
        state = PushState.FAILED if reason else PushState.DONE
        seconds = self.network.loop.time() - flight.since_s
        flight.future.set_result(PushResult(push=flight.push.push, state=state, reason=reason, seconds=seconds))


def _running() -> "Future[Any]":
    """A future that cannot be cancelled."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
