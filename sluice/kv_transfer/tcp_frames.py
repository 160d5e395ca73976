"""The bytes of the tcp backend's protocol, and its limits. Reads and writes no socket.

    sender                                             receiver
    HELLO    magic, version, incarnation meant  ---->
                                                <----  REPLY 0: ok, or why not
    PUSH     id, grant, ranges, then the bytes  ---->  checks grant and ranges before the bytes
                                                <----  REPLY id: written, or why not

Little-endian. Pushes may follow each other without waiting for replies; replies come in order.
Next: `tcp_link.py` sends, `tcp_receiver.py` receives.
"""

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sluice.errors import TransferError

MAGIC: Final = b"SLKV"
VERSION: Final = 1
BOOT_BYTES_MAX: Final = 256
GRANT_BYTES_MAX: Final = 256
RANGES_MAX: Final = 1 << 20
REASON_BYTES_MAX: Final = 512

HELLO_HEAD: Final = struct.Struct("<4sHH")
PUSH_HEAD: Final = struct.Struct("<QHIQ")
REPLY_HEAD: Final = struct.Struct("<QBH")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushHead:
    """The fixed part of a push: what follows it, in bytes and ranges."""

    push: int
    grant_bytes: int
    ranges: int
    total_bytes: int

    @property
    def table_bytes(self) -> int:
        """Size of the grant and the two columns of ranges that follow the head."""
        return self.grant_bytes + 16 * self.ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How a push (or the hello, push 0) ended at the receiver; an empty reason means well."""

    push: int
    reason: str


def encode_hello(boot: str) -> bytes:
    """Opens a connection to the incarnation `boot`."""
    name = boot.encode()
    return HELLO_HEAD.pack(MAGIC, VERSION, len(name)) + name


def decode_hello_head(data: bytes) -> int:
    """Length of the name that follows. Raises TransferError for anything but our protocol."""
    magic, version, name_bytes = HELLO_HEAD.unpack(data)
    if magic != MAGIC:
        raise TransferError("not the KV transfer protocol")
    if version != VERSION:
        raise TransferError(f"protocol version {version}, not {VERSION}: run the same release on both workers")
    if name_bytes > BOOT_BYTES_MAX:
        raise TransferError(f"an incarnation's name is over {BOOT_BYTES_MAX} bytes")
    return int(name_bytes)


def encode_push(*, push: int, grant: bytes, target: NDArray[np.int64], length: NDArray[np.int64]) -> bytes:
    """Everything of a push but its bytes. Raises TransferError over the limits."""
    if len(grant) > GRANT_BYTES_MAX or len(target) > RANGES_MAX:
        problem = f"{len(target)} ranges or a grant of {len(grant)} bytes"
        raise TransferError(f"{problem} in one push: the limits are {RANGES_MAX} and {GRANT_BYTES_MAX}")
    head = PUSH_HEAD.pack(push, len(grant), len(target), int(length.sum()))
    return head + grant + target.astype("<i8").tobytes() + length.astype("<i8").tobytes()


def decode_push_head(data: bytes) -> PushHead:
    """Raises TransferError over the limits: the stream cannot be trusted any further."""
    push, grant_bytes, ranges, total_bytes = PUSH_HEAD.unpack(data)
    if grant_bytes > GRANT_BYTES_MAX or ranges > RANGES_MAX:
        raise TransferError(f"a push of {ranges} ranges and a grant of {grant_bytes} bytes is over the limits")
    return PushHead(push=push, grant_bytes=grant_bytes, ranges=ranges, total_bytes=total_bytes)


def decode_ranges(data: bytes, *, ranges: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Target offsets and lengths, unchecked."""
    columns = np.frombuffer(data, dtype="<i8").astype(np.int64).reshape(2, ranges)
    return columns[0], columns[1]


def encode_reply(reply: Reply) -> bytes:
    """A reply, its reason cut to the limit."""
    reason = reply.reason.encode()[:REASON_BYTES_MAX]
    return REPLY_HEAD.pack(reply.push, 1 if reason else 0, len(reason)) + reason


def take_replies(buffer: bytearray) -> list[Reply]:
    """Remove the complete replies from the front of `buffer`. Raises TransferError over the limits."""
    replies = []
    start = 0
    while len(buffer) - start >= REPLY_HEAD.size:
        push, failed, reason_bytes = REPLY_HEAD.unpack_from(buffer, start)
        if reason_bytes > REASON_BYTES_MAX:
            raise TransferError("the peer's reply is over the limits")
        end = start + REPLY_HEAD.size + reason_bytes
        if len(buffer) < end:
            break
        reason = bytes(buffer[start + REPLY_HEAD.size : end]).decode(errors="replace")
        replies.append(Reply(push=push, reason=reason or ("refused" if failed else "")))
        start = end
    del buffer[:start]
    return replies


class Cursor:
    """Walks ranges of a region as lists of views for vectored socket calls, in order."""

    def __init__(self, view: memoryview, offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        self._view = view
        self._offsets: list[int] = offsets.tolist()
        self._lengths: list[int] = lengths.tolist()
        self._index = 0  # the range we are in
        self._done = 0  # bytes of it that are behind us
        self.remaining_bytes = int(lengths.sum())

    def views(self, *, count_max: int, bytes_max: int) -> list[memoryview]:
        """The next ranges, at most `count_max` of them and about `bytes_max` bytes."""
        views: list[memoryview] = []
        index, done, size = self._index, self._done, 0
        while index < len(self._offsets) and len(views) < count_max and size < bytes_max:
            start, end = self._offsets[index] + done, self._offsets[index] + self._lengths[index]
            end = min(end, start + bytes_max - size)
            views.append(self._view[start:end])
            size += end - start
            index, done = index + 1, 0
        return views

    def advance(self, count: int) -> None:
        """`count` bytes have been moved."""
        self.remaining_bytes -= count
        while count:
            rest = self._lengths[self._index] - self._done
            if count < rest:
                self._done += count
                return
            count -= rest
            self._index, self._done = self._index + 1, 0
