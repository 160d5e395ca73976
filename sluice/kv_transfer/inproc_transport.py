"""Moves KV between workers of one process: for tests and simulation, with every lateness at will.

A push is carried out by `InprocNetwork.deliver()`; while nothing holds the network back, the
sender's poll() delivers at once. Held back, it behaves like the worst of real transports:
abandoning stops nothing, and the bytes written late are the source's bytes at that time.
Grants and ranges are checked at delivery. Next: `shm_transport.py`.
"""

import threading
from collections import deque
from dataclasses import dataclass, field

from sluice.clock import Clock, SystemClock
from sluice.domain.ids import BootId
from sluice.errors import TransferError, TransportUnavailableError
from sluice.kv_transfer.byte_copy import copy_ranges, is_inside
from sluice.kv_transfer.grants import GrantTable
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushResult, PushState, Region


@dataclass(slots=True, eq=False)
class _Flight:
    """One push on its way."""

    sender: "InprocTransport"
    push: Push
    since_s: float


@dataclass(slots=True)
class InprocNetwork:
    """Joins transports of one process. `is_held` keeps pushes in flight until deliver() or lose().

    One lock guards the network and what its members have to report: their movers have threads.
    """

    is_held: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)
    members: dict[BootId, "InprocTransport"] = field(default_factory=dict)
    flights: deque[_Flight] = field(default_factory=deque)

    def deliver(self, count: int | None = None) -> None:
        """Carry out the oldest `count` pushes in flight, or all."""
        with self.lock:
            for _ in range(len(self.flights) if count is None else count):
                flight = self.flights.popleft()
                flight.sender.settle(flight.push, flight.since_s, self._write(flight))

    def lose(self, boot: BootId, *, reason: str) -> None:
        """Fail every push in flight to `boot`; not a byte of them is written."""
        with self.lock:
            lost = [flight for flight in self.flights if flight.push.peer == boot]
            self._end(lost, reason)

    def leave(self, sender: "InprocTransport", boot: BootId) -> None:
        """Fail what `sender` has in flight to `boot`."""
        with self.lock:
            lost = [flight for flight in self.flights if flight.sender is sender and flight.push.peer == boot]
            self._end(lost, "disconnected")

    def _end(self, lost: list[_Flight], reason: str) -> None:
        for flight in lost:
            self.flights.remove(flight)
            flight.sender.settle(flight.push, flight.since_s, reason)

    def _write(self, flight: _Flight) -> str:
        """Copy the bytes; returns why not, or an empty reason."""
        target = self.members.get(flight.push.peer)
        if target is None:
            return f"peer {flight.push.peer} is gone"
        source_view, ranges = flight.sender.view, flight.push.descriptors
        grant = target.grants.find(flight.push.grant)
        if grant is None:
            return "the grant is unknown, was revoked or has run out"
        with grant.lock:
            if not grant.is_open or not grant.covers(ranges.target, ranges.length):
                return "a range lies outside the grant"
            if not is_inside(ranges, source_bytes=len(source_view), target_bytes=len(target.view)):
                return "a range lies outside the region"
            copy_ranges(source_view, target.view, ranges)
        return ""


class InprocTransport:
    """The in-process backend of `transport.Transport`."""

    name = "inproc"

    def __init__(self, network: InprocNetwork, *, boot: BootId, clock: Clock | None = None) -> None:
        self._network = network
        self._boot = boot
        self._clock = clock or SystemClock()
        self._peers: set[BootId] = set()
        self._results: list[PushResult] = []
        self.grants = GrantTable()
        self.view = memoryview(b"")

    def register(self, region: Region) -> None:
        if region.view is None:
            raise TransportUnavailableError("inproc: cannot move device memory; use nixl")
        self.view = region.view
        self._network.members[self._boot] = self

    def local_info(self) -> bytes:
        return self._boot.encode()

    def can_reach(self, peer: PeerInfo) -> bool:
        return dict(peer.infos).get(self.name) == peer.boot.encode() and peer.boot in self._network.members

    def connect(self, peer: PeerInfo) -> None:
        if not self.can_reach(peer):
            raise TransferError(f"inproc: peer {peer.worker} ({peer.boot}) is not in this process")
        self._peers.add(peer.boot)

    def disconnect(self, boot: BootId) -> None:
        self._peers.discard(boot)
        self._network.leave(self, boot)

    def submit(self, push: Push) -> None:
        since_s = self._clock.now_s()
        if push.peer in self._peers:
            with self._network.lock:
                self._network.flights.append(_Flight(self, push, since_s))
        else:
            self.settle(push, since_s, f"not connected to {push.peer}")

    def abandon(self, push: int) -> None:
        """Changes nothing: a late delivery still writes, as with real one-sided transports."""

    def poll(self) -> list[PushResult]:
        if not self._network.is_held:
            self._network.deliver()
        with self._network.lock:
            results, self._results = self._results, []
        return results

    def allow(self, *, grant: bytes, ranges: Descriptors, lease_s: float) -> None:
        self.grants.allow(grant=grant, ranges=ranges, lease_s=lease_s)

    def renew(self, grant: bytes, *, lease_s: float) -> None:
        self.grants.renew(grant, lease_s=lease_s)

    def revoke(self, grant: bytes) -> bool:
        """Always safe once it returns: delivery checks the grant under its lock."""
        return self.grants.revoke(grant)

    def settle(self, push: Push, since_s: float, reason: str) -> None:
        """Record a terminal state; an empty reason means done. Called by the network."""
        state = PushState.FAILED if reason else PushState.DONE
        seconds = self._clock.now_s() - since_s
        with self._network.lock:
            self._results.append(PushResult(push=push.push, state=state, reason=reason, seconds=seconds))

    def close(self) -> None:
        for boot in list(self._peers):
            self.disconnect(boot)
        self._network.members.pop(self._boot, None)
