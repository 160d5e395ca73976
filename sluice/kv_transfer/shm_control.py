"""The fence of shared memory: which grants are open, and who is writing under them right now.

The control area behind a shared region is a table of slots, each empty or the digest of an open
grant and when it ends; the secret itself is never in it. The end is a reading of the machine's
monotonic clock: both sides are on one machine, and no message carries it. Byte locks of the kernel
on the slots order everyone:

    writer    lock slot shared -> is my digest still there? -> copy -> unlock
    receiver  clear slot -> lock it exclusively: got it?  yes: nobody writes, nobody will
                                                          no: a writer is in the middle; ask again

A killed writer's locks vanish with it, a stopped writer's stay: exactly what is needed. The
locks are Linux "open file description" locks, so two transports of one process exclude each other.
Never touches the region itself. Next: `shm_transport.py`.
"""

import fcntl
import hashlib
import mmap
import os
import secrets
import struct
import threading
from typing import Final

from sluice.clock import SystemClock
from sluice.errors import OverloadedError, TransferError
from sluice.kv_transfer.memory import CONTROL_BYTES, SHM_DIRECTORY, control_offset

DIGEST_BYTES: Final = 24
END: Final = struct.Struct("=d")  # seconds on the monotonic clock
SLOT_BYTES: Final = DIGEST_BYTES + END.size
NONCE_BYTES: Final = 16
SLOT_0: Final = SLOT_BYTES  # the nonce fills the first slot's place
SLOTS: Final = CONTROL_BYTES // SLOT_BYTES - 1
EMPTY: Final = bytes(DIGEST_BYTES)


class _ShmFileView:
    """An own file description of a shared pool's file, and its control area mapped."""

    def __init__(self, name: str, *, region_bytes: int) -> None:
        """Raises OSError if the file is not there or is too small."""
        if "/" in name or not name.strip("."):
            raise FileNotFoundError(name)
        self.offset = control_offset(region_bytes)
        self.fd = os.open(SHM_DIRECTORY / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(self.fd).st_size != self.offset + CONTROL_BYTES:
                raise FileNotFoundError(name)
            self.control = mmap.mmap(self.fd, CONTROL_BYTES, offset=self.offset)
        except OSError:
            os.close(self.fd)
            raise

    def lock(self, kind: int, slot: int) -> bool:
        """Try to set a lock of `kind` on the slot's byte; F_UNLCK always succeeds."""
        request = struct.pack("hhqqi0q", kind, os.SEEK_SET, self.offset + SLOT_0 + slot * SLOT_BYTES, 1, 0)
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, request)
        except BlockingIOError:
            return False
        return True

    def read(self, slot: int) -> bytes:
        start = SLOT_0 + slot * SLOT_BYTES
        return self.control[start : start + DIGEST_BYTES]

    def write(self, slot: int, digest: bytes) -> None:
        start = SLOT_0 + slot * SLOT_BYTES
        self.control[start : start + DIGEST_BYTES] = digest

    def read_end(self, slot: int) -> float:
        end_s: float = END.unpack_from(self.control, SLOT_0 + slot * SLOT_BYTES + DIGEST_BYTES)[0]
        return end_s

    def write_end(self, slot: int, end_s: float) -> None:
        END.pack_into(self.control, SLOT_0 + slot * SLOT_BYTES + DIGEST_BYTES, end_s)

    def close(self) -> None:
        self.control.close()
        os.close(self.fd)


class GrantBoard:
    """The receiver's side. Callable from any thread."""

    def __init__(self, name: str, *, region_bytes: int) -> None:
        """Raises OSError if the pool's file cannot be opened."""
        self._file = _ShmFileView(name, region_bytes=region_bytes)
        self._lock = threading.Lock()
        self._slots: dict[bytes, int] = {}
        self._free = list(reversed(range(SLOTS)))  # low ones first: writers search the table from its start
        self._clock = SystemClock()
        self._is_closed = False
        self.nonce = secrets.token_bytes(NONCE_BYTES)
        self._file.control[:NONCE_BYTES] = self.nonce

    def open_grant(self, grant: bytes, *, lease_s: float) -> None:
        """Let whoever knows `grant` write for `lease_s`. Raises OverloadedError when every slot is taken."""
        with self._lock:
            if not self._free:
                raise OverloadedError(f"all {SLOTS} shared-memory grants are in use", retry_after_s=1)
            assert grant not in self._slots, "a grant is a fresh secret each time"
            slot = self._slots[grant] = self._free.pop()
            self._file.write_end(slot, self._clock.now_s() + lease_s)
            self._file.write(slot, _digest(grant))

    def renew(self, grant: bytes, *, lease_s: float) -> None:
        """The grant lasts for another `lease_s` at least, if it has not ended."""
        with self._lock:
            slot, now_s = self._slots.get(grant), self._clock.now_s()
            if slot is not None and not self._is_closed and now_s < (end_s := self._file.read_end(slot)):
                self._file.write_end(slot, max(end_s, now_s + lease_s))

    def close_grant(self, grant: bytes) -> bool:
        """Let nobody start to write any more; True once nobody is in the middle of it either."""
        with self._lock:
            slot = self._slots.get(grant)
            if slot is None or self._is_closed:
                return True
            self._file.write(slot, EMPTY)
            if not self._file.lock(fcntl.F_WRLCK, slot):
                return False
            self._file.lock(fcntl.F_UNLCK, slot)
            del self._slots[grant]
            self._free.append(slot)
            return True

    def close(self) -> None:
        """Clear every slot. Idempotent."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._file.control[:] = bytes(CONTROL_BYTES)
                self._file.close()


class PeerBoard:
    """A writer's side of one peer's board. For one thread."""

    def __init__(self, name: str, *, region_bytes: int, nonce: bytes) -> None:
        """Raises OSError if the file is not there, TransferError if it is not the one announced."""
        self._clock = SystemClock()
        self._file = _ShmFileView(name, region_bytes=region_bytes)
        self.fd = self._file.fd
        if self._file.control[:NONCE_BYTES] != nonce:
            self.close()
            raise TransferError(f"shm: {name} is not the peer's memory any more")

    def is_owner_alive(self) -> bool:
        """Whether the process that owns the pool still holds its lock."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return False

    def begin(self, grant: bytes) -> int | None:
        """Enter the grant's slot so that revoking waits for end(); None if the grant is not open.

        It may have been revoked between finding and entering: ask is_open() before each piece.
        """
        found = self._file.control.find(_digest(grant), SLOT_0)
        slot, misaligned = divmod(found - SLOT_0, SLOT_BYTES)
        if found < 0 or misaligned or not self._file.lock(fcntl.F_RDLCK, slot):
            return None  # never open, or being revoked at this moment
        return slot

    def is_open(self, grant: bytes, slot: int) -> bool:
        """Whether the grant entered as `slot` has neither been revoked nor run out."""
        return self._file.read(slot) == _digest(grant) and self._clock.now_s() < self._file.read_end(slot)

    def end(self, slot: int) -> None:
        """Leave the slot."""
        self._file.lock(fcntl.F_UNLCK, slot)

    def close(self) -> None:
        """Unmap and close; ends every lock held through it."""
        self._file.close()


def _digest(grant: bytes) -> bytes:
    return hashlib.blake2b(grant, digest_size=DIGEST_BYTES).digest()
