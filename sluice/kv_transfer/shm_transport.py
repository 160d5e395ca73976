"""Moves KV between processes of one host: maps the peer's pool and copies into it, one memcpy.

Whether a peer is on this host is not guessed from addresses: the same kernel must be running
and the peer's file, with the nonce it announced, must be there under our /dev/shm. Writers are
fenced by `shm_control.py`, so revoke() tells the truth. A push is copied in slices by poll(), hence
abandoning one stops it. The ranges of a grant cannot be enforced here: a peer that may map the
pool is trusted to stay inside it, and does, by checking its own pushes. Next: `memory.py`.
"""

import json
import mmap
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sluice.clock import Clock, SystemClock
from sluice.domain.ids import BootId
from sluice.errors import TransferError, TransportUnavailableError
from sluice.kv_transfer.byte_copy import copy_ranges, is_inside
from sluice.kv_transfer.shm_control import GrantBoard, PeerBoard
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushResult, PushState, Region

SLICE_BYTES: Final = 32 << 20
KERNEL_BOOT_FILE: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Peer:
    """A peer's mapped pool."""

    board: PeerBoard
    mapping: mmap.mmap
    view: memoryview

    def close(self) -> None:
        self.board.close()
        self.view.release()
        self.mapping.close()


@dataclass(slots=True, kw_only=True, eq=False)
class _Copy:
    """A push and how far it is: `next` is the first range not copied; `slot` once it holds one."""

    push: Push
    since_s: float
    next: int = 0
    slot: int | None = None
    is_abandoned: bool = False


class ShmTransport:
    """The shared-memory backend of `transport.Transport`."""

    name = "shm"

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._peers: dict[BootId, _Peer] = {}
        self._copies: deque[_Copy] = deque()
        self._results: list[PushResult] = []
        self._board: GrantBoard | None = None
        self._view = memoryview(b"")
        self._info = b""

    def register(self, region: Region) -> None:
        """Raises TransportUnavailableError unless the region is shared memory."""
        if region.view is None or region.shm_name is None:
            raise TransportUnavailableError("shm: the KV pool is not in shared memory; allocate it with shared=True")
        try:
            self._board = GrantBoard(region.shm_name, region_bytes=region.size_bytes)
        except OSError as error:
            raise TransportUnavailableError(f"shm: cannot open the KV pool's own file ({error})") from error
        self._view = region.view
        info = {"kernel": _kernel_boot(), "name": region.shm_name, "nonce": self._board.nonce.hex()}
        self._info = json.dumps(info).encode()

    def local_info(self) -> bytes:
        return self._info

    def can_reach(self, peer: PeerInfo) -> bool:
        if peer.boot in self._peers:
            return True
        try:
            _open_board(peer).close()
        except TransferError:
            return False
        return True

    def connect(self, peer: PeerInfo) -> None:
        known = self._peers.get(peer.boot)
        if known and known.board.is_owner_alive():
            return
        self.disconnect(peer.boot)
        board = _open_board(peer)
        if not board.is_owner_alive():
            board.close()
            raise TransferError(f"shm: peer {peer.worker} ({peer.boot}) is gone")
        try:
            # Not MAP_POPULATE: it keeps the interpreter lock while it clears the whole pool's pages.
            mapping = mmap.mmap(board.fd, peer.region_bytes, flags=mmap.MAP_SHARED)
        except OSError as error:
            board.close()
            raise TransferError(f"shm: cannot map the pool of peer {peer.worker} ({error.strerror})") from error
        self._peers[peer.boot] = _Peer(board=board, mapping=mapping, view=memoryview(mapping))

    def disconnect(self, boot: BootId) -> None:
        for copy in [copy for copy in self._copies if copy.push.peer == boot]:
            self._settle(copy, "disconnected")
        peer = self._peers.pop(boot, None)
        if peer:
            peer.close()

    def submit(self, push: Push) -> None:
        copy = _Copy(push=push, since_s=self._clock.now_s())
        self._copies.append(copy)
        peer = self._peers.get(push.peer)
        if peer is None:
            self._settle(copy, f"not connected to {push.peer}")
        elif not is_inside(push.descriptors, source_bytes=len(self._view), target_bytes=len(peer.view)):
            self._settle(copy, "a range lies outside the region")

    def abandon(self, push: int) -> None:
        """Stops the copy where it is; poll() then reports FAILED and nothing more is written."""
        for copy in self._copies:
            if copy.push.push == push:
                copy.is_abandoned = True

    def poll(self) -> list[PushResult]:
        """Copies up to SLICE_BYTES of the oldest pushes, then reports."""
        budget_bytes = SLICE_BYTES
        while self._copies and budget_bytes > 0:
            budget_bytes -= self._advance(self._copies[0], budget_bytes)
        results, self._results = self._results, []
        return results

    def allow(
        self,
        *,
        grant: bytes,
        ranges: Descriptors,  # noqa: ARG002 - see the module docstring
        lease_s: float,
    ) -> None:
        assert self._board, "register() comes first"
        self._board.open_grant(grant, lease_s=lease_s)

    def renew(self, grant: bytes, *, lease_s: float) -> None:
        if self._board:
            self._board.renew(grant, lease_s=lease_s)

    def revoke(self, grant: bytes) -> bool:
        """False only while a writer is between two of its slices, or stopped there."""
        return self._board.close_grant(grant) if self._board else True

    def close(self) -> None:
        for boot in list(self._peers):
            self.disconnect(boot)
        if self._board:
            self._board.close()
            self._board = None

    def _advance(self, copy: _Copy, budget_bytes: int) -> int:
        """Copy some ranges of the oldest push, or end it; returns the bytes copied."""
        peer, ranges = self._peers[copy.push.peer], copy.push.descriptors
        if copy.is_abandoned:
            self._settle(copy, "abandoned")
            return 0
        if copy.slot is None:
            copy.slot = peer.board.begin(copy.push.grant)
        if copy.slot is None or not peer.board.is_open(copy.push.grant, copy.slot):
            self._settle(copy, "the grant is unknown, was revoked or has run out")
            return 0
        ends = ranges.length[copy.next :].cumsum()
        stop = copy.next + min(int(ends.searchsorted(budget_bytes)) + 1, len(ends))
        part = slice(copy.next, stop)
        piece = Descriptors(ranges.source[part], ranges.target[part], ranges.length[part])
        copy_ranges(self._view, peer.view, piece)
        copy.next = stop
        if stop == len(ranges):
            self._settle(copy, "" if peer.board.is_owner_alive() else "the peer is gone")
        return piece.total_bytes

    def _settle(self, copy: _Copy, reason: str) -> None:
        """End a push, leaving its slot; an empty reason means done."""
        self._copies.remove(copy)
        if copy.slot is not None:
            self._peers[copy.push.peer].board.end(copy.slot)
        state = PushState.FAILED if reason else PushState.DONE
        seconds = self._clock.now_s() - copy.since_s
        self._results.append(PushResult(push=copy.push.push, state=state, reason=reason, seconds=seconds))


def _open_board(peer: PeerInfo) -> PeerBoard:
    """The announced peer's control area. Raises TransferError if it is not on this host."""
    try:
        info = json.loads(dict(peer.infos)["shm"])
        name, nonce, kernel = str(info["name"]), bytes.fromhex(info["nonce"]), str(info["kernel"])
    except (KeyError, TypeError, ValueError) as error:
        raise TransferError(f"shm: peer {peer.worker} sent no usable connection data") from error
    if kernel != _kernel_boot():
        raise TransferError(f"shm: peer {peer.worker} is on another host")
    try:
        return PeerBoard(name, region_bytes=peer.region_bytes, nonce=nonce)
    except OSError as error:
        raise TransferError(f"shm: the pool of peer {peer.worker} is not in our /dev/shm") from error


def _kernel_boot() -> str:
    """Names this boot of this host's kernel; the same in all its containers."""
    return KERNEL_BOOT_FILE.read_text().strip()
