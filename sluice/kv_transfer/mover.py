"""The one thread that owns a worker's transports: connects peers, runs pushes, accounts for quarantine.

Anyone may ask it from any thread and gets a future. It waits for each push's fence, hands the push
to the transport chosen for the pair, and polls: fast at first, then slower, not at all when nothing
is in flight. A future ends when the push is *terminal*: until then neither side's memory may be
reused, also after abandon().

    push() -> [queue] -> fence.wait -> transport.submit -> poll ... -> future

The receiver's half, allow() and revoke(), is answered on the caller's thread.
Decides nothing about requests or leases: that is `handoff.py` and `lease.py`. Next: `transport.py`.
"""

import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, assert_never

from sluice.clock import Clock, SystemClock
from sluice.domain.ids import BootId
from sluice.errors import SluiceError, TransferError, TransportUnavailableError
from sluice.kv_transfer.deadline import deadline_s
from sluice.kv_transfer.link_stats import LinkStats
from sluice.kv_transfer.mover_commands import Abandon, Command, Connect, Disconnect, Fence, Start, Stop
from sluice.kv_transfer.quarantine import Quarantine
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushResult, PushState, Region, Transport

PUSHES_MAX: Final = 4096
POLL_S_MIN: Final = 100e-6
POLL_S_MAX: Final = 1e-3
POLL_GROWTH: Final = 1.3
LATE_FACTOR: Final = 2.0
"""A transport with a deadline of its own (tcp) is given the time to keep it."""
RECONNECT_S_MIN: Final = 0.5
RECONNECT_S_MAX: Final = 8.0


@dataclass(slots=True, kw_only=True)
class _Peer:
    """A peer, the transport chosen for it, and when a broken link may be tried again."""

    info: PeerInfo
    transport: Transport
    retry_at_s: float = 0.0
    pause_s: float = RECONNECT_S_MIN


class Mover:
    """Moves KV for one worker. `transports` are in order of preference; close() it when done."""

    def __init__(
        self,
        transports: Sequence[Transport],
        region: Region,
        *,
        clock: Clock | None = None,
        pushes_max: int = PUSHES_MAX,
    ) -> None:
        """Register `region` with each transport and start the thread.

        A transport that cannot serve the region is left out: `unavailable` says why. Raises
        TransportUnavailableError if none is left.
        """
        self._clock = clock or SystemClock()
        self._transports: dict[str, Transport] = {}
        self.unavailable: dict[str, str] = {}
        for transport in transports:
            try:
                transport.register(region)
                self._transports[transport.name] = transport
            except TransportUnavailableError as error:
                self.unavailable[transport.name] = str(error)
        if not self._transports:
            raise TransportUnavailableError(f"no KV transport works here: {'; '.join(self.unavailable.values())}")
        self._infos = tuple((name, transport.local_info()) for name, transport in self._transports.items())
        self.quarantine = Quarantine(region_bytes=region.size_bytes)
        self.stats = LinkStats()
        self._room = threading.Semaphore(pushes_max)
        self._lock = threading.Lock()  # orders asking and closing
        self._is_closing = False
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._peers: dict[BootId, _Peer] = {}
        self._flights: dict[int, Start] = {}
        self._next_late_s = math.inf
        self._thread = threading.Thread(target=self._run, name="kv-mover", daemon=True)
        self._thread.start()

    @property
    def transport_names(self) -> tuple[str, ...]:
        """The transports in use, in order of preference."""
        return tuple(self._transports)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs; a worker whose mover died is not ready."""
        return self._thread.is_alive()

    @property
    def quarantined_bytes(self) -> int:
        """Bytes of our region that may not be reused because someone may still read or write them."""
        return self.quarantine.total_bytes

    def local_infos(self) -> tuple[tuple[str, bytes], ...]:
        """What to tell peers, for PeerInfo.infos."""
        return self._infos

    def connect(self, peer: PeerInfo) -> "Future[str]":
        """Connect by the first transport that can; the future's value names it, or is a TransferError.

        A new incarnation of a known worker replaces the old one, whose pushes fail.
        """
        command = Connect(peer=peer)
        if not self._ask(command):
            self._refuse(command, "the mover is closed")
        return command.future

    def disconnect(self, boot: BootId) -> None:
        """Forget a peer; its pushes fail. Unknown ones are ignored."""
        self._ask(Disconnect(boot=boot))

    def push(self, push: Push, fence: Fence) -> "Future[PushResult]":
        """Start a push once `fence` has passed. Never blocks; the future never raises.

        One not terminal long after its deadline is abandoned, as if by abandon().
        `push.push` must be unique among pushes not yet terminal. Too many pushes at once, an unknown
        peer and a broken link are FAILED results that say so.
        """
        command = Start(push=push, fence=fence)
        if not self._room.acquire(blocking=False):
            command.future.set_result(_failed(push, "too many pushes are waiting"))
        elif not self._ask(command):
            self._refuse(command, "the mover is closed")
        return command.future

    def abandon(self, push: int) -> None:
        """Stop caring for a push. Its bytes count as quarantined until its future ends."""
        self._ask(Abandon(push=push))

    def allow(self, *, grant: bytes, ranges: Descriptors, lease_s: float) -> None:
        """As receiver: whoever presents `grant` may write the `target` ranges, by any transport, for `lease_s`.

        Raises OverloadedError if there are too many grants.
        """
        opened: list[Transport] = []
        try:
            for transport in self._transports.values():
                transport.allow(grant=grant, ranges=ranges, lease_s=lease_s)
                opened.append(transport)
        except SluiceError:
            for transport in opened:
                transport.revoke(grant)
            raise
        self.quarantine.grant_opened(grant, total_bytes=ranges.total_bytes)

    def renew(self, grant: bytes, *, lease_s: float) -> None:
        """As receiver: the grant lasts for another `lease_s` at least."""
        for transport in self._transports.values():
            transport.renew(grant, lease_s=lease_s)

    def revoke(self, grant: bytes) -> bool:
        """As receiver: the grant ends. True once its memory is safe to reuse; until then ask again.

        Bytes of a grant that is not safe count as quarantined.
        """
        answers = [transport.revoke(grant) for transport in self._transports.values()]  # each must hear of it
        is_safe = all(answers)
        if is_safe:
            self.quarantine.grant_ended(grant)
        else:
            self.quarantine.grant_revoked(grant)
        return is_safe

    def end_grant(self, grant: bytes) -> None:
        """As receiver: the grant ends, and the sender itself said that it writes no more (commit, or stopped)."""
        self.revoke(grant)
        self.quarantine.grant_ended(grant)

    def close(self) -> None:
        """Fail what is in flight, close the transports, join the thread. Idempotent."""
        with self._lock:
            if not self._is_closing:
                self._is_closing = True
                self._commands.put(Stop())
        self._thread.join()

    def _ask(self, command: Command) -> bool:
        """Queue a command; False once closing: nothing is queued behind the stop."""
        with self._lock:
            if not self._is_closing:
                self._commands.put(command)
            return not self._is_closing

    # ------------------------------------------------------------------ on the mover's thread from here on

    def _run(self) -> None:
        pause_s = POLL_S_MIN
        try:
            while not self._is_closing:
                try:
                    command = self._commands.get(timeout=pause_s if self._flights else None)
                except Empty:
                    pause_s = min(pause_s * POLL_GROWTH, POLL_S_MAX)
                else:
                    self._carry_out(command)
                    pause_s = POLL_S_MIN
                if self._poll():
                    pause_s = POLL_S_MIN
        finally:
            self._shut_down()

    def _carry_out(self, command: Command) -> None:
        match command:
            case Start():
                self._start(command)
            case Connect(peer=peer, future=future):
                try:
                    future.set_result(self._connect(peer))
                except TransferError as error:
                    future.set_exception(error)
            case Disconnect(boot=boot):
                self._disconnect(boot)
            case Abandon(push=push):
                self._abandon(push)
            case Stop():
                pass
            case _:
                assert_never(command)

    def _connect(self, info: PeerInfo) -> str:
        """Connect, replacing an older incarnation. Raises TransferError naming each transport's reason."""
        for boot in [boot for boot, peer in self._peers.items() if peer.info.worker == info.worker]:
            if boot != info.boot:
                self._disconnect(boot)
        transport = self._choose(info)
        self._peers[info.boot] = _Peer(info=info, transport=transport)
        self.stats.connected(worker=info.worker, boot=info.boot, transport=transport.name)
        return transport.name

    def _choose(self, info: PeerInfo, *, but: Transport | None = None) -> Transport:
        """The first transport, other than `but`, that reaches the peer and connects."""
        reasons = []
        for name, transport in self._transports.items():
            if transport is but:
                continue
            if not transport.can_reach(info):
                reasons.append(f"{name}: cannot reach it")
                continue
            try:
                transport.connect(info)
            except TransferError as error:
                reasons.append(str(error))
            else:
                return transport
        why = "; ".join(reasons) or "there is no other"
        raise TransferError(f"no transport connects to {info.worker} ({info.boot}): {why}")

    def _disconnect(self, boot: BootId) -> None:
        if self._peers.pop(boot, None):
            for transport in self._transports.values():
                transport.disconnect(boot)
            self.stats.forgotten(boot)

    def _start(self, command: Start) -> None:
        push = command.push
        peer = self._peers.get(push.peer)
        if peer is None:
            self._refuse(command, f"not connected to {push.peer}")
        elif push.push in self._flights:
            self._refuse(command, f"push {push.push} is already in flight")
        elif (problem := self._ensure_link(peer)) or (problem := _wait(command.fence)):
            self._refuse(command, problem)
        else:
            others = (flight.push for flight in self._flights.values())
            ahead_bytes = sum(other.descriptors.total_bytes for other in others if other.peer == push.peer)
            allowed_s = LATE_FACTOR * deadline_s(ahead_bytes + push.descriptors.total_bytes)
            command.late_at_s = self._clock.now_s() + allowed_s
            self._next_late_s = min(self._next_late_s, command.late_at_s)
            self._flights[push.push] = command
            peer.transport.submit(push)

    def _ensure_link(self, peer: _Peer) -> str:
        """See that the link stands, reconnecting with growing pauses if not; why it does not, or nothing."""
        if self._clock.now_s() < peer.retry_at_s:
            return "the link to the peer is broken"
        try:
            peer.transport.connect(peer.info)  # nothing to do for one that stands
        except TransferError as broken:
            try:
                peer.transport = self._choose(peer.info, but=peer.transport)
            except TransferError as error:
                peer.retry_at_s = self._clock.now_s() + peer.pause_s
                peer.pause_s = min(peer.pause_s * 2, RECONNECT_S_MAX)
                reason = f"{broken}; {error}"
                self.stats.link_failed(peer.info.boot, reason=reason)
                return reason
            self.stats.connected(worker=peer.info.worker, boot=peer.info.boot, transport=peer.transport.name)
        peer.pause_s = RECONNECT_S_MIN
        return ""

    def _abandon(self, push: int) -> None:
        flight = self._flights.get(push)
        if flight:
            self.quarantine.push_abandoned(push, total_bytes=flight.push.descriptors.total_bytes)
            for transport in self._transports.values():
                transport.abandon(push)

    def _abandon_late(self) -> None:
        """Abandon pushes past their deadline: some transports never end one whose peer has stopped."""
        now_s = self._clock.now_s()
        if now_s < self._next_late_s:
            return
        for number, flight in list(self._flights.items()):
            if flight.late_at_s <= now_s:
                flight.late_at_s = math.inf
                self._abandon(number)
                self.stats.link_failed(flight.push.peer, reason="a push is past its deadline")
        self._next_late_s = min((flight.late_at_s for flight in self._flights.values()), default=math.inf)

    def _poll(self) -> bool:
        """Collect terminal states; whether there were any."""
        self._abandon_late()
        results = [result for transport in self._transports.values() for result in transport.poll()]
        for result in results:
            flight = self._flights.pop(result.push, None)
            if flight is None:
                continue
            self.quarantine.push_ended(result.push)
            self.stats.push_ended(flight.push.peer, result, total_bytes=flight.push.descriptors.total_bytes)
            self._end(flight, result)
        return bool(results)

    def _refuse(self, command: Command, reason: str) -> None:
        """Answer a command that is not carried out."""
        if isinstance(command, Start):
            self._end(command, _failed(command.push, reason))
        elif isinstance(command, Connect):
            command.future.set_exception(TransferError(reason))

    def _end(self, flight: Start, result: PushResult) -> None:
        self._room.release()
        flight.future.set_result(result)

    def _shut_down(self) -> None:
        with self._lock:
            self._is_closing = True
        for transport in self._transports.values():
            transport.close()
        while not self._commands.empty():
            self._refuse(self._commands.get(), "the mover is closed")
        for flight in list(self._flights.values()):
            self._end(flight, _failed(flight.push, "the mover is closed"))
        self._flights.clear()


def _failed(push: Push, reason: str) -> PushResult:
    return PushResult(push=push.push, state=PushState.FAILED, reason=reason)


def _wait(fence: Fence) -> str:
    """Wait for the device; why that failed, or nothing."""
    try:
        fence.wait()
    # The fence runs the engine's device code: its failure must fail one push, not the thread.
    except Exception as error:  # noqa: BLE001
        return f"the device failed before the push: {error}"
    return ""
