"""Moves KV between hosts over plain TCP sockets, from pool to pool, with no staging copy.

A thin owner of one receiver and one link per peer; any thread-to-thread traffic is theirs.
The listener binds the address it is given, nothing wider. Grants keep strangers from writing;
the bytes themselves are not encrypted. Next: `tcp_link.py`, `tcp_receiver.py`, `tcp_frames.py`.
"""

import json
from queue import Empty, SimpleQueue

from sluice.clock import Clock, SystemClock
from sluice.domain.ids import BootId
from sluice.errors import TransferError, TransportUnavailableError
from sluice.kv_transfer.byte_copy import is_inside
from sluice.kv_transfer.grants import GrantTable
from sluice.kv_transfer.tcp_link import TcpLink, dial
from sluice.kv_transfer.tcp_receiver import TcpReceiver
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushResult, PushState, Region


class TcpTransport:
    """The tcp backend of `transport.Transport`.

    Listens on `host`:`port` (0: any free port) from register() to close(); peers are told to
    dial `advertise_host`, by default `host`.
    """

    name = "tcp"

    def __init__(
        self, *, boot: BootId, host: str, port: int = 0, advertise_host: str = "", clock: Clock | None = None
    ) -> None:
        self._boot, self._host, self._port = boot, host, port
        self._advertise_host = advertise_host or host
        self._clock = clock or SystemClock()
        self._grants = GrantTable()
        self._links: dict[BootId, TcpLink] = {}
        self._peer_bytes: dict[BootId, int] = {}
        self._pushed_to: dict[int, BootId] = {}
        self._results: SimpleQueue[PushResult] = SimpleQueue()
        self._receiver: TcpReceiver | None = None
        self._view = memoryview(b"")

    def register(self, region: Region) -> None:
        """Raises TransportUnavailableError for device memory or an address that cannot be bound."""
        if region.view is None:
            raise TransportUnavailableError("tcp: cannot move device memory; use nixl")
        self._view = region.view
        self._receiver = TcpReceiver(
            host=self._host, port=self._port, boot=self._boot, view=region.view, grants=self._grants
        )

    def local_info(self) -> bytes:
        assert self._receiver, "register() comes first"
        return json.dumps({"host": self._advertise_host, "port": self._receiver.port}).encode()

    def can_reach(self, peer: PeerInfo) -> bool:
        """Whether the peer offers an address: trying it takes a connect()."""
        return _address(peer) is not None

    def connect(self, peer: PeerInfo) -> None:
        link = self._links.get(peer.boot)
        if link and not link.is_broken:
            return
        self.disconnect(peer.boot)
        address = _address(peer)
        if address is None:
            raise TransferError(f"tcp: peer {peer.worker} sent no usable connection data")
        connection = dial(host=address[0], port=address[1], boot=peer.boot)
        self._peer_bytes[peer.boot] = peer.region_bytes
        self._links[peer.boot] = TcpLink(connection, view=self._view, results=self._results, clock=self._clock)

    def disconnect(self, boot: BootId) -> None:
        link = self._links.pop(boot, None)
        self._peer_bytes.pop(boot, None)
        if link:
            link.close()

    def submit(self, push: Push) -> None:
        link, ranges = self._links.get(push.peer), push.descriptors
        if link is None:
            self._refuse(push, f"not connected to {push.peer}")
        elif not is_inside(ranges, source_bytes=len(self._view), target_bytes=self._peer_bytes[push.peer]):
            self._refuse(push, "a range lies outside the region")
        elif ranges.total_bytes > self._peer_bytes[push.peer]:
            self._refuse(push, "the ranges overlap: together they are larger than the region")
        else:
            self._pushed_to[push.push] = push.peer
            link.submit(push)

    def abandon(self, push: int) -> None:
        link = self._links.get(self._pushed_to.get(push, BootId("")))
        if link:
            link.abandon(push)

    def poll(self) -> list[PushResult]:
        results: list[PushResult] = []
        while True:
            try:
                result = self._results.get_nowait()
            except Empty:
                return results
            self._pushed_to.pop(result.push, None)
            results.append(result)

    def allow(self, *, grant: bytes, ranges: Descriptors, lease_s: float) -> None:
        self._grants.allow(grant=grant, ranges=ranges, lease_s=lease_s)

    def renew(self, grant: bytes, *, lease_s: float) -> None:
        self._grants.renew(grant, lease_s=lease_s)

    def revoke(self, grant: bytes) -> bool:
        """Always safe once it returns: see `grants.py`."""
        return self._grants.revoke(grant)

    def close(self) -> None:
        for boot in list(self._links):
            self.disconnect(boot)
        if self._receiver:
            self._receiver.close()
            self._receiver = None

    def _refuse(self, push: Push, reason: str) -> None:
        self._results.put(PushResult(push=push.push, state=PushState.FAILED, reason=reason))


def _address(peer: PeerInfo) -> tuple[str, int] | None:
    try:
        info = json.loads(dict(peer.infos)["tcp"])
        return str(info["host"]), int(info["port"])
    except (KeyError, TypeError, ValueError):
        return None
