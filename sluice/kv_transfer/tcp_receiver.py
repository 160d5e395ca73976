"""Receives pushes over TCP straight into the pool: one listener, one thread per connected peer.

The grant and every range are checked before the first byte is read. Bytes are taken from the
kernel while the grant's lock is held and never while waiting for the network, so revoke() needs
no help from a slow or stopped sender: when it returns, nothing of that grant is written any more.
What arrives for a revoked or refused push is read and dropped; other pushes go on.

Everything is bounded: connections, frames, the silence within a frame. Never writes outside a
grant, whatever the bytes say. Next: `tcp_frames.py`, `grants.py`.
"""

import contextlib
import select
import socket
import threading
from typing import Final

from sluice.domain.ids import BootId
from sluice.errors import TransferError, TransportUnavailableError
from sluice.kv_transfer import tcp_frames
from sluice.kv_transfer.grants import Grant, GrantTable
from sluice.kv_transfer.tcp_frames import Cursor, Reply
from sluice.kv_transfer.tcp_options import tune

CONNECTIONS_MAX: Final = 256
HELLO_S: Final = 5.0
SILENCE_S: Final = 30.0
"""A peer that starts a frame and then says nothing for so long is disconnected."""
ACCEPT_PAUSE_S: Final = 0.1
SCRATCH_BYTES: Final = 256 << 10
READ_BYTES_MAX: Final = 4 << 20
VIEWS_MAX: Final = 64
NO_GRANT: Final = "the grant is unknown, was revoked or has run out"
OUTSIDE: Final = "a range lies outside the grant"


class _PeerGoneError(Exception):
    """The connection ended between two frames or in the middle of one."""


class TcpReceiver:
    """Listens until close(). Threads are its own; close() joins them."""

    def __init__(self, *, host: str, port: int, boot: BootId, view: memoryview, grants: GrantTable) -> None:
        """Bind and start. Raises TransportUnavailableError if the address cannot be bound."""
        self._boot, self._view, self._grants = boot, view, grants
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._closing = threading.Event()
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._listener = socket.create_server((host, port), family=family, backlog=128)
        except (OSError, OverflowError) as error:
            raise TransportUnavailableError(
                f"tcp: cannot listen on {host}:{port} ({error}); choose a free port or another address"
            ) from error
        self.port = int(self._listener.getsockname()[1])
        self._acceptor = threading.Thread(target=self._accept, name="kv-tcp-accept", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Close every connection and wait for the threads; afterwards nothing writes into the region."""
        with self._lock:
            self._closing.set()
            connections = dict(self._connections)
        for end in (self._listener, *connections):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for thread in connections.values():
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                if self._closing.wait(ACCEPT_PAUSE_S):  # else out of file descriptors: let some close
                    return
                continue
            with self._lock:
                if self._closing.is_set() or len(self._connections) >= CONNECTIONS_MAX:
                    connection.close()
                    continue
                name = f"kv-tcp-in-{address[1]}"
                thread = threading.Thread(target=self._serve, args=(connection,), name=name, daemon=True)
                self._connections[connection] = thread
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            tune(connection)
            connection.settimeout(0)
            self._greet(connection)
            while True:
                self._receive_push(connection)
        except (_PeerGoneError, TransferError, OSError):
            pass  # the sender sees its connection end and names the failure
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            connection.close()

    def _greet(self, connection: socket.socket) -> None:
        """Refuse whoever means another incarnation, or speaks another protocol."""
        head = _read_exactly(connection, tcp_frames.HELLO_HEAD.size, patience_s=HELLO_S)
        try:
            name_bytes = tcp_frames.decode_hello_head(head)
        except TransferError as error:
            _send(connection, Reply(push=0, reason=str(error)))
            raise
        meant = _read_exactly(connection, name_bytes, patience_s=HELLO_S).decode(errors="replace")
        reason = f"this is incarnation {self._boot}, not {meant}: the worker was restarted"
        _send(connection, Reply(push=0, reason="" if meant == self._boot else reason))
        if meant != self._boot:
            raise TransferError(reason)

    def _receive_push(self, connection: socket.socket) -> None:
        """One push, from its head to our reply."""
        head = tcp_frames.decode_push_head(_read_exactly(connection, tcp_frames.PUSH_HEAD.size, patience_s=None))
        if head.total_bytes > len(self._view):
            raise TransferError(f"a push of {head.total_bytes} bytes is larger than the pool")
        table = _read_exactly(connection, head.table_bytes, patience_s=SILENCE_S)
        target, length = tcp_frames.decode_ranges(table[head.grant_bytes :], ranges=head.ranges)
        grant = self._grants.find(table[: head.grant_bytes])
        remaining_bytes, reason = head.total_bytes, NO_GRANT
        if grant is not None:
            reason = OUTSIDE
            if grant.covers(target, length) and int(length.sum()) == head.total_bytes:
                cursor = Cursor(self._view, target, length)
                reason = self._fill(connection, grant, cursor)
                remaining_bytes = cursor.remaining_bytes
        _drop(connection, remaining_bytes)
        _send(connection, Reply(push=head.push, reason=reason))

    def _fill(self, connection: socket.socket, grant: Grant, cursor: Cursor) -> str:
        """Read the bytes into the pool; returns early with the reason if the grant is revoked."""
        while cursor.remaining_bytes:
            views = cursor.views(count_max=VIEWS_MAX, bytes_max=READ_BYTES_MAX)
            with grant.lock:
                if not self._grants.is_writable(grant):
                    return NO_GRANT
                try:
                    count = connection.recvmsg_into(views)[0]
                except BlockingIOError:
                    count = -1
            if count == 0:
                raise _PeerGoneError
            if count < 0:
                _wait_readable(connection, patience_s=SILENCE_S)
            else:
                cursor.advance(count)
        return ""


def _drop(connection: socket.socket, remaining_bytes: int) -> None:
    """Read what nobody wants, so that the next push can be read."""
    scratch = memoryview(bytearray(min(remaining_bytes, SCRATCH_BYTES)))
    while remaining_bytes:
        try:
            count = connection.recv_into(scratch[: min(remaining_bytes, SCRATCH_BYTES)])
        except BlockingIOError:
            _wait_readable(connection, patience_s=SILENCE_S)
            continue
        if count == 0:
            raise _PeerGoneError
        remaining_bytes -= count


def _read_exactly(connection: socket.socket, count: int, *, patience_s: float | None) -> bytes:
    """`count` bytes. With `patience_s` None the first of them may take for ever: the peer is idle."""
    data = bytearray()
    while len(data) < count:
        try:
            piece = connection.recv(min(count - len(data), SCRATCH_BYTES))
        except BlockingIOError:
            _wait_readable(connection, patience_s=SILENCE_S if data and patience_s is None else patience_s)
            continue
        if not piece:
            raise _PeerGoneError
        data += piece
    return bytes(data)


def _wait_readable(connection: socket.socket, *, patience_s: float | None) -> None:
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    if not poller.poll(None if patience_s is None else patience_s * 1000):
        raise _PeerGoneError


def _send(connection: socket.socket, reply: Reply) -> None:
    """Replies are tiny: if the kernel cannot take one, the peer has stopped reading long ago."""
    data = tcp_frames.encode_reply(reply)
    if connection.send(data) != len(data):
        raise _PeerGoneError
