"""Sends pushes to one peer over one socket, from the pool, on a thread of its own.

    submit --> queued --> sending --> unanswered --reply--> DONE | FAILED
                  |           `----------`--link breaks, deadline passed--> FAILED
                  `--abandon--> FAILED

Abandoning a push that has started lets it finish: the connection is shared with other requests,
and a push lasts milliseconds. Closing the socket is the true cancel: our memory is free at once,
and the peer's is fenced by its own revoke(). A broken link stays broken: connect again.
Never blocks its callers. Next: `tcp_receiver.py` is the other end.
"""

import os
import select
import socket
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Final

from sluice.clock import Clock
from sluice.errors import TransferError
from sluice.kv_transfer import tcp_frames
from sluice.kv_transfer.deadline import deadline_s
from sluice.kv_transfer.tcp_frames import Cursor, Reply
from sluice.kv_transfer.tcp_options import tune
from sluice.kv_transfer.transport import Push, PushResult, PushState

DIAL_S: Final = 2.0
SEND_BYTES_MAX: Final = 4 << 20
VIEWS_MAX: Final = 64
REPLY_READ_BYTES: Final = 64 << 10


@dataclass(slots=True, kw_only=True, eq=False)
class _Sending:
    """One push on its way: `head` is what of the frame's head is still to be sent."""

    push: Push
    since_s: float
    deadline_s: float = 0.0
    head: memoryview = field(default_factory=lambda: memoryview(b""))
    cursor: Cursor | None = None

    @property
    def is_sent(self) -> bool:
        return not self.head and (self.cursor is None or not self.cursor.remaining_bytes)


def dial(*, host: str, port: int, boot: str) -> socket.socket:
    """A greeted connection to the incarnation `boot`. Blocks up to twice DIAL_S; raises TransferError."""
    try:
        connection = socket.create_connection((host, port), timeout=DIAL_S)
    except OSError as error:
        raise TransferError(f"tcp: cannot reach {host}:{port} ({error})") from error
    try:
        reason = _greet(connection, boot)
    except (OSError, TransferError) as error:
        connection.close()
        raise TransferError(f"tcp: {host}:{port} did not greet us ({error})") from error
    if reason:
        connection.close()
        raise TransferError(f"tcp: {host}:{port} refused: {reason}")
    connection.settimeout(0)
    return connection


def _greet(connection: socket.socket, boot: str) -> str:
    """Say whom we mean; returns the peer's objection, or nothing."""
    tune(connection)
    connection.sendall(tcp_frames.encode_hello(boot))
    buffer = bytearray()
    while not (replies := tcp_frames.take_replies(buffer)):
        data = connection.recv(REPLY_READ_BYTES)
        if not data:
            raise TransferError("it closed the connection; it may be at its limit of connections")
        buffer += data
    return replies[0].reason


class TcpLink:
    """Owns a dialed socket until close(). Results go to `results`, each push exactly once."""

    def __init__(
        self, connection: socket.socket, *, view: memoryview, results: SimpleQueue[PushResult], clock: Clock
    ) -> None:
        self._connection, self._view, self._results, self._clock = connection, view, results, clock
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()  # guards the next four
        self._inbox: deque[_Sending] = deque()
        self._abandoned: set[int] = set()
        self._end_reason = ""
        self._is_ended = False
        self._queued: deque[_Sending] = deque()
        self._unanswered: OrderedDict[int, _Sending] = OrderedDict()  # started, in order
        self._current: _Sending | None = None  # the one being sent; also in _unanswered
        self._replies = bytearray()
        self._thread = threading.Thread(target=self._run, name="kv-tcp-out", daemon=True)
        self._thread.start()

    @property
    def is_broken(self) -> bool:
        """Whether pushes submitted now fail at once."""
        return self._is_ended

    def submit(self, push: Push) -> None:
        """Queue a push."""
        sending = _Sending(push=push, since_s=self._clock.now_s())
        with self._lock:
            if not self._is_ended:
                self._inbox.append(sending)
                os.eventfd_write(self._wake_fd, 1)
                return
        self._settle(sending, f"the link is broken: {self._end_reason}")

    def abandon(self, push: int) -> None:
        """Drop a push that has not started; one that has runs to its end or its deadline."""
        with self._lock:
            if not self._is_ended:
                self._abandoned.add(push)
                os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """End the link; its pushes fail. Idempotent, waits for the thread."""
        with self._lock:
            if not self._is_ended:
                self._end_reason = self._end_reason or "closed"
                os.eventfd_write(self._wake_fd, 1)
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._end_reason:
                self._wait()
                self._take_inbox()
                self._read_replies()
                self._send()
                self._check_deadline()
        except (OSError, TransferError) as error:
            self._end_reason = self._end_reason or f"{error}"
        with self._lock:
            self._is_ended = True
            left = [*self._unanswered.values(), *self._queued, *self._inbox]
            os.close(self._wake_fd)
        self._connection.close()
        for sending in left:
            self._settle(sending, self._end_reason)

    def _wait(self) -> None:
        """Sleep until there is something to do, or the oldest push is late."""
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        wants_to_send = self._current is not None or bool(self._queued)
        poller.register(self._connection, select.POLLIN | (select.POLLOUT if wants_to_send else 0))
        oldest = next(iter(self._unanswered.values()), None)
        if oldest is None:
            poller.poll()
        else:
            poller.poll(max(0.0, oldest.deadline_s - self._clock.now_s()) * 1000 + 1)

    def _take_inbox(self) -> None:
        with self._lock:
            if self._inbox or self._abandoned or self._end_reason:
                os.eventfd_read(self._wake_fd)
            self._queued += self._inbox
            self._inbox.clear()
            abandoned, self._abandoned = self._abandoned, set()
        for sending in [sending for sending in self._queued if sending.push.push in abandoned]:
            self._queued.remove(sending)
            self._settle(sending, "abandoned before it started")

    def _read_replies(self) -> None:
        try:
            data = self._connection.recv(REPLY_READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise TransferError("the peer closed the connection")
        self._replies += data
        for reply in tcp_frames.take_replies(self._replies):
            self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        sending = self._unanswered.pop(reply.push, None)
        if sending is None or not sending.is_sent:
            if sending:
                self._unanswered[reply.push] = sending
            raise TransferError("the peer answered a push it does not have")
        self._settle(sending, reply.reason)

    def _send(self) -> None:
        """Give the kernel what it takes now."""
        while (sending := self._current or self._start_next()) is not None:
            head, cursor = sending.head, sending.cursor
            assert cursor, "a started push has a cursor"
            views = [head] if head else cursor.views(count_max=VIEWS_MAX, bytes_max=SEND_BYTES_MAX)
            try:
                count = self._connection.sendmsg(views) if views else 0
            except BlockingIOError:
                return
            if head:
                sending.head = head[count:]
            else:
                cursor.advance(count)
            if sending.is_sent:
                self._current = None

    def _start_next(self) -> _Sending | None:
        while self._queued:
            sending = self._queued.popleft()
            push, ranges = sending.push, sending.push.descriptors
            try:
                head = tcp_frames.encode_push(
                    push=push.push, grant=push.grant, target=ranges.target, length=ranges.length
                )
            except TransferError as error:
                self._settle(sending, str(error))
                continue
            sending.head = memoryview(head)
            sending.cursor = Cursor(self._view, ranges.source, ranges.length)
            ahead_bytes = sum(other.push.descriptors.total_bytes for other in self._unanswered.values())
            sending.deadline_s = self._clock.now_s() + deadline_s(ahead_bytes + ranges.total_bytes)
            self._unanswered[push.push] = self._current = sending
            return sending
        return None

    def _check_deadline(self) -> None:
        oldest = next(iter(self._unanswered.values()), None)
        if oldest and self._clock.now_s() > oldest.deadline_s:
            raise TransferError("the peer takes no data or does not answer: its deadline passed")

    def _settle(self, sending: _Sending, reason: str) -> None:
        """Report a terminal state; an empty reason means done."""
        state = PushState.FAILED if reason else PushState.DONE
        seconds = self._clock.now_s() - sending.since_s
        self._results.put(PushResult(push=sending.push.push, state=state, reason=reason, seconds=seconds))
