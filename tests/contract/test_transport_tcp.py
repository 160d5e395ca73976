"""The tcp backend among peers that stop, lie, flood and vanish. Timing decides nothing here: clocks are fake."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from sluice.clock import ManualClock
from sluice.domain.ids import BootId, WorkerId
from sluice.errors import TransferError, TransportUnavailableError
from sluice.kv_transfer import tcp_frames, tcp_receiver
from sluice.kv_transfer.deadline import deadline_s
from sluice.kv_transfer.memory import KvMemory, allocate
from sluice.kv_transfer.mover import Mover
from sluice.kv_transfer.tcp_frames import Reply
from sluice.kv_transfer.tcp_transport import TcpTransport
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushResult, PushState

SIZE = 8 << 20
GRANT = b"g" * 32
HOST = "127.0.0.1"
PATIENCE_S = 20.0


def whole(length: int = SIZE) -> Descriptors:
    zero = np.zeros(1, dtype=np.int64)
    return Descriptors(zero, zero, np.asarray([length], dtype=np.int64))


def push(number: int, *, length: int = SIZE) -> Push:
    return Push(push=number, peer=BootId("peer"), grant=GRANT, descriptors=whole(length))


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def wait_results(transport: TcpTransport, count: int) -> list[PushResult]:
    results: list[PushResult] = []

    def enough() -> bool:
        results.extend(transport.poll())
        return len(results) >= count

    wait_until(enough)
    return results


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory() -> Iterator[KvMemory]:
    pool = allocate(SIZE, shared=False)
    yield pool
    pool.close()


@pytest.fixture
def sender(memory: KvMemory, clock: ManualClock) -> Iterator[TcpTransport]:
    transport = TcpTransport(boot=BootId("sender"), host=HOST, clock=clock)
    transport.register(memory.region())
    yield transport
    transport.close()


@pytest.fixture
def receiver() -> Iterator[TcpTransport]:
    pool = allocate(SIZE, shared=False)
    transport = TcpTransport(boot=BootId("peer"), host=HOST)
    transport.register(pool.region())
    yield transport
    transport.close()
    pool.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)  # so that SIZE never fits the buffers
        server.settimeout(PATIENCE_S)
        yield server


def info(port: int) -> PeerInfo:
    data = b'{"host": "%s", "port": %d}' % (HOST.encode(), port)
    return PeerInfo(worker=WorkerId("w"), boot=BootId("peer"), region_bytes=SIZE, infos=(("tcp", data),))


def port_of(transport: TcpTransport) -> int:
    assert transport._receiver
    return transport._receiver.port


def greet(listener: socket.socket) -> socket.socket:
    """Play a receiver that answers the hello."""
    connection = listener.accept()[0]
    connection.settimeout(PATIENCE_S)
    connection.recv(1000)
    connection.sendall(tcp_frames.encode_reply(Reply(push=0, reason="")))
    return connection


def connect_to(sender: TcpTransport, listener: socket.socket) -> socket.socket:
    """Connect `sender` to a fake peer; returns the fake's end."""
    ends: list[socket.socket] = []
    fake = threading.Thread(target=lambda: ends.append(greet(listener)))
    fake.start()
    sender.connect(info(listener.getsockname()[1]))
    fake.join()
    return ends[0]


def dial(receiver: TcpTransport, *, boot: str = "peer") -> socket.socket:
    """A hand-made sender's connection, greeted."""
    connection = socket.create_connection((HOST, port_of(receiver)), timeout=PATIENCE_S)
    connection.sendall(tcp_frames.encode_hello(boot))
    wait_reply(connection)
    return connection


def wait_reply(connection: socket.socket) -> Reply:
    buffer = bytearray()
    while not (replies := tcp_frames.take_replies(buffer)):
        data = connection.recv(1000)
        assert data, "closed"
        buffer += data
    return replies[0]


def head_of(number: int, *, length: int, grant: bytes = GRANT) -> bytes:
    ranges = whole(length)
    return tcp_frames.encode_push(push=number, grant=grant, target=ranges.target, length=ranges.length)


def test_a_peer_that_takes_no_data_fails_its_pushes_at_their_deadline(
    sender: TcpTransport, listener: socket.socket, clock: ManualClock
) -> None:
    with connect_to(sender, listener):
        sender.submit(push(1))
        sender.submit(push(2))
        wait_until(lambda: bool(sender._links[BootId("peer")]._unanswered))
        clock.advance(deadline_s(SIZE) + 1)
        sender.abandon(2)  # anything that wakes the link
        results = wait_results(sender, 2)
    assert {result.state for result in results} == {PushState.FAILED}
    assert any("deadline" in result.reason for result in results)


def test_a_peer_that_never_answers_fails_its_pushes_at_their_deadline(
    sender: TcpTransport, listener: socket.socket, clock: ManualClock
) -> None:
    with connect_to(sender, listener) as fake:
        sender.submit(push(1, length=10))
        fake.recv(1000)
        clock.advance(deadline_s(10) + 1)
        sender.abandon(1)
        assert "deadline" in wait_results(sender, 1)[0].reason


def test_a_peer_that_closes_in_the_middle_fails_all_its_pushes_and_can_be_dialed_again(
    sender: TcpTransport, listener: socket.socket
) -> None:
    fake = connect_to(sender, listener)
    for number in range(3):
        sender.submit(push(number))
    fake.recv(1000)
    fake.close()
    assert {result.state for result in wait_results(sender, 3)} == {PushState.FAILED}
    sender.submit(push(4))
    assert "broken" in wait_results(sender, 1)[0].reason
    with connect_to(sender, listener) as again:
        sender.submit(push(5, length=10))
        again.recv(1000)
        again.sendall(tcp_frames.encode_reply(Reply(push=5, reason="")))
        assert wait_results(sender, 1)[0].state is PushState.DONE


@pytest.mark.parametrize("reply", [Reply(push=77, reason=""), Reply(push=1, reason="")])
def test_a_peer_that_answers_what_was_not_sent_is_disconnected(
    sender: TcpTransport, listener: socket.socket, reply: Reply
) -> None:
    with connect_to(sender, listener) as fake:
        sender.submit(push(1))
        fake.recv(10)
        fake.sendall(tcp_frames.encode_reply(reply))
        [result] = wait_results(sender, 1)
    assert (result.state, "does not have" in result.reason) == (PushState.FAILED, True)


def test_an_abandoned_push_that_has_not_started_is_never_sent(sender: TcpTransport, listener: socket.socket) -> None:
    with connect_to(sender, listener) as fake:
        sender.submit(push(1))
        sender.submit(push(2))
        sender.abandon(2)
        [result] = wait_results(sender, 1)
        assert (result.push, "before it started" in result.reason) == (2, True)
        left = len(head_of(1, length=SIZE)) + SIZE
        while left:
            left -= len(fake.recv(min(left, 1 << 20)))
        fake.sendall(tcp_frames.encode_reply(Reply(push=1, reason="")))
        assert wait_results(sender, 1)[0].state is PushState.DONE


def test_connecting_to_what_does_not_speak_our_protocol_fails(sender: TcpTransport, listener: socket.socket) -> None:
    port = listener.getsockname()[1]

    def hang_up() -> None:
        listener.accept()[0].close()

    stranger = threading.Thread(target=hang_up)
    stranger.start()
    with pytest.raises(TransferError, match="did not greet us"):
        sender.connect(info(port))
    stranger.join()
    listener.close()
    with pytest.raises(TransferError, match="cannot reach"):
        sender.connect(info(port))


def test_revoking_in_the_middle_of_a_push_stops_the_writing_and_keeps_the_connection(receiver: TcpTransport) -> None:
    receiver.allow(lease_s=60.0, grant=GRANT, ranges=whole())
    view = receiver._view
    with dial(receiver) as connection:
        connection.sendall(head_of(1, length=SIZE) + b"\1" * 1000)
        wait_until(lambda: view[999] == 1)
        assert receiver.revoke(GRANT)
        connection.sendall(b"\2" * (SIZE - 1000))
        assert "revoked" in wait_reply(connection).reason
        assert not any(view[1000:])
        receiver.allow(lease_s=60.0, grant=b"h" * 32, ranges=whole(10))
        connection.sendall(head_of(2, length=10, grant=b"h" * 32) + b"\3" * 10)
        assert wait_reply(connection) == Reply(push=2, reason="")
        assert bytes(view[:10]) == b"\3" * 10


def test_a_sender_that_stops_in_the_middle_does_not_hold_up_revoking_or_others(receiver: TcpTransport) -> None:
    receiver.allow(lease_s=60.0, grant=GRANT, ranges=whole())
    receiver.allow(lease_s=60.0, grant=b"h" * 32, ranges=whole(10))
    with dial(receiver) as stopped, dial(receiver) as other:
        stopped.sendall(head_of(1, length=SIZE) + b"\1" * 1000)
        wait_until(lambda: receiver._view[999] == 1)
        other.sendall(head_of(1, length=10, grant=b"h" * 32) + bytes(10))
        assert wait_reply(other).reason == ""
        assert receiver.revoke(GRANT)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        tcp_frames.HELLO_HEAD.pack(b"SLKV", 1, 60_000),
        tcp_frames.encode_hello("peer") + tcp_frames.PUSH_HEAD.pack(1, 60_000, 1, 1),
        tcp_frames.encode_hello("peer") + tcp_frames.PUSH_HEAD.pack(1, 0, 2**32 - 1, 1),
        tcp_frames.encode_hello("peer") + tcp_frames.PUSH_HEAD.pack(1, 0, 0, 2**63),
    ],
)
def test_frames_over_the_limits_end_the_connection_and_nothing_else(receiver: TcpTransport, data: bytes) -> None:
    receiver.allow(lease_s=60.0, grant=GRANT, ranges=whole())
    with socket.create_connection((HOST, port_of(receiver)), timeout=PATIENCE_S) as rude:
        rude.sendall(data)
        with contextlib.suppress(ConnectionResetError):  # closed with our bytes unread
            while rude.recv(1000):
                pass
    with dial(receiver) as polite:
        polite.sendall(head_of(1, length=10) + bytes(10))
        assert wait_reply(polite).reason == ""


def test_a_length_that_does_not_add_up_writes_nothing(receiver: TcpTransport) -> None:
    receiver.allow(lease_s=60.0, grant=GRANT, ranges=whole())
    with dial(receiver) as liar:
        table = whole(10)
        head = tcp_frames.PUSH_HEAD.pack(1, len(GRANT), 1, 12)
        liar.sendall(head + GRANT + table.target.tobytes() + table.length.tobytes() + b"\1" * 12)
        assert "outside" in wait_reply(liar).reason
    assert not any(receiver._view[:20])


def test_silence_after_connecting_is_ended(receiver: TcpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_receiver, "HELLO_S", 0.01)
    with socket.create_connection((HOST, port_of(receiver)), timeout=PATIENCE_S) as silent:
        assert silent.recv(10) == b""


def test_connections_over_the_limit_are_turned_away(receiver: TcpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_receiver, "CONNECTIONS_MAX", 1)
    address = (HOST, port_of(receiver))
    with (
        dial(receiver),
        socket.create_connection(address, timeout=PATIENCE_S) as second,
        contextlib.suppress(ConnectionResetError),
    ):
        assert second.recv(10) == b""


def test_a_port_in_use_is_an_error_that_names_it(receiver: TcpTransport, memory: KvMemory) -> None:
    port = port_of(receiver)
    transport = TcpTransport(boot=BootId("x"), host=HOST, port=port)
    with pytest.raises(TransportUnavailableError, match=rf"127.0.0.1:{port}.*choose a free port"):
        transport.register(memory.region())


class Passed:
    """A fence the device has already passed."""

    def wait(self) -> None:
        """Nothing to wait for."""


def test_a_link_that_broke_while_idle_is_dialed_again_before_the_next_push(
    receiver: TcpTransport, memory: KvMemory
) -> None:
    transport = TcpTransport(boot=BootId("sender"), host=HOST)
    mover = Mover([transport], memory.region())
    receiver.allow(lease_s=60.0, grant=GRANT, ranges=whole())
    assert mover.connect(info(port_of(receiver))).result(PATIENCE_S) == "tcp"
    assert receiver._receiver
    wait_until(lambda: bool(receiver._receiver and receiver._receiver._connections))
    for connection in list(receiver._receiver._connections):
        connection.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: transport._links[BootId("peer")].is_broken)
    assert mover.push(push(1), Passed()).result(PATIENCE_S).state is PushState.DONE
    mover.close()


def test_closing_leaves_no_thread_behind(memory: KvMemory) -> None:
    before = set(threading.enumerate())
    pools = [memory, allocate(SIZE, shared=False)]
    sides = [TcpTransport(boot=BootId(boot), host=HOST) for boot in ("sender", "peer")]
    for side, pool in zip(sides, pools, strict=True):
        side.register(pool.region())
    sides[0].connect(info(port_of(sides[1])))
    sides[1].allow(lease_s=60.0, grant=GRANT, ranges=whole())
    sides[0].submit(push(1))
    for side in reversed(sides):
        side.close()
    assert len(sides[0].poll()) == 1
    assert set(threading.enumerate()) <= before
    pools[1].close()
