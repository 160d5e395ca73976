"""Owns the bytes of one worker's KV pool: private memory, or shared memory its neighbours may map.

Shared memory is a file of unguessable name in /dev/shm, locked (flock) for as long as its owner
lives. The lock tells the living from the dead in any PID namespace, so files left behind by a
killed worker are swept by the next one that starts. Room is claimed before use: a full
/dev/shm is an error at start, never a SIGBUS under load. The file holds

    [ region, padded to a page ][ control: which grants are open, see shm_control.py ]

Never copies a byte and never knows what a byte means. Never fork after `allocate(shared=True)`:
the child would keep the lock alive. Next: `shm_transport.py`, `plan.py`.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
from pathlib import Path
from typing import Final

import numpy as np

from sluice.errors import ConfigError, TransportUnavailableError
from sluice.kv_transfer.transport import Region

SHM_DIRECTORY: Final = Path("/dev/shm")  # noqa: S108 - the kernel's name for POSIX shared memory; files get random names
NAME_PREFIX: Final = "sluice-kv-"
CONTROL_BYTES: Final = 1 << 18
NAME_ATTEMPTS_MAX: Final = 8


def control_offset(region_bytes: int) -> int:
    """Where the control area of a shared region of `region_bytes` starts: the next page boundary."""
    return -(-region_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


class KvMemory:
    """A writable buffer of `size_bytes` zero bytes. Whoever holds it must close() it.

    `view` may be wrapped by numpy or torch without a copy.
    """

    def __init__(self, mapping: mmap.mmap, *, size_bytes: int, shm: "ShmFile | None") -> None:
        self._mapping = mapping
        self._shm = shm
        self._is_closed = False
        self.size_bytes = size_bytes
        self.view = memoryview(mapping)[:size_bytes]
        self.address = int(np.frombuffer(mapping, dtype=np.uint8).ctypes.data)

    @property
    def shm_name(self) -> str | None:
        """Name of the file in /dev/shm, for shared memory."""
        return self._shm.name if self._shm else None

    def region(self) -> Region:
        """What transports register; valid until close()."""
        return Region(
            address=self.address, size_bytes=self.size_bytes, device="cpu", view=self.view, shm_name=self.shm_name
        )

    def close(self) -> None:
        """Remove the name and let the memory go. Idempotent.

        While a numpy array or tensor still wraps `view` the mapping stays until that is gone:
        unmapping under it would crash the process.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._shm:
            self._shm.remove()
        with contextlib.suppress(BufferError):
            self.view.release()
            self._mapping.close()


class ShmFile:
    """A file in /dev/shm that this process owns: created, locked, and removed by it alone."""

    def __init__(self, *, size_bytes: int) -> None:
        """Create and lock the file and claim room. Raises TransportUnavailableError."""
        self._check_room(size_bytes)
        self.name, self.fd = _create_locked()
        try:
            os.posix_fallocate(self.fd, 0, size_bytes)
        except OSError as error:
            self.remove()
            raise _no_room(size_bytes, available_bytes=_available_bytes()) from error

    @property
    def path(self) -> Path:
        """Where the file is."""
        return SHM_DIRECTORY / self.name

    def remove(self) -> None:
        """Unlink the name, end the lock. Mappings of it stay valid for those who have one."""
        self.path.unlink(missing_ok=True)
        os.close(self.fd)

    def _check_room(self, size_bytes: int) -> None:
        available_bytes = _available_bytes()
        if size_bytes > available_bytes:
            raise _no_room(size_bytes, available_bytes=available_bytes)


def allocate(size_bytes: int, *, shared: bool, prefault: bool = False) -> KvMemory:
    """Memory for a KV pool, zeroed; with `shared` other processes on this host can map it.

    `prefault` touches every page now instead of on first use. Raises ConfigError if the size is
    wrong or memory is short, TransportUnavailableError if /dev/shm is missing or has no room.
    """
    if size_bytes <= 0:
        raise ConfigError(f"kv pool: size is {size_bytes} bytes; give a positive size")
    flags_populate = mmap.MAP_POPULATE if prefault else 0
    if shared:
        sweep_stale()
        shm = ShmFile(size_bytes=control_offset(size_bytes) + CONTROL_BYTES)
        try:
            mapping = mmap.mmap(shm.fd, control_offset(size_bytes), flags=mmap.MAP_SHARED | flags_populate)
        except OSError as error:
            shm.remove()
            raise _no_memory(size_bytes, error) from error
        return KvMemory(mapping, size_bytes=size_bytes, shm=shm)
    try:
        mapping = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags_populate)
    except (OSError, OverflowError) as error:
        raise _no_memory(size_bytes, error) from error
    return KvMemory(mapping, size_bytes=size_bytes, shm=None)


def sweep_stale() -> list[str]:
    """Remove shared memory whose owner is dead; returns the names. Files of others are left alone."""
    removed = []
    for path in SHM_DIRECTORY.glob(f"{NAME_PREFIX}*"):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or just removed
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            removed.append(path.name)
        except OSError:
            continue  # its owner lives
        finally:
            os.close(fd)
    return removed


def _create_locked() -> tuple[str, int]:
    """A fresh file, locked by us. A sweeper may win the moment between creating and locking: try again."""
    for _ in range(NAME_ATTEMPTS_MAX):
        name = NAME_PREFIX + secrets.token_hex(16)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(SHM_DIRECTORY / name, flags, 0o600)
        except OSError as error:
            raise TransportUnavailableError(
                f"shared memory: cannot create {SHM_DIRECTORY / name} ({error.strerror}); "
                "mount a tmpfs at /dev/shm that this user may write, or disable the shm transport"
            ) from error
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink == 1:
            return name, fd
        os.close(fd)
    raise TransportUnavailableError("shared memory: another process keeps removing our file; stop it and start again")


def _available_bytes() -> int:
    try:
        status = os.statvfs(SHM_DIRECTORY)
    except OSError as error:
        raise TransportUnavailableError(
            f"shared memory: {SHM_DIRECTORY} is not there ({error.strerror}); mount a tmpfs at it, "
            "or disable the shm transport"
        ) from error
    return status.f_bavail * status.f_frsize


def _no_room(size_bytes: int, *, available_bytes: int) -> TransportUnavailableError:
    return TransportUnavailableError(
        f"shared memory: {SHM_DIRECTORY} has {available_bytes >> 20} MiB free and the KV pool needs "
        f"{-(-size_bytes >> 20)} MiB; make it larger (docker --shm-size, or a Kubernetes emptyDir with "
        "medium: Memory mounted there), use fewer KV blocks, or disable the shm transport"
    )


def _no_memory(size_bytes: int, error: Exception) -> ConfigError:
    code = error.errno if isinstance(error, OSError) else errno.ENOMEM
    return ConfigError(
        f"kv pool: cannot map {size_bytes >> 20} MiB ({os.strerror(code or errno.ENOMEM)}); use fewer KV blocks"
    )
