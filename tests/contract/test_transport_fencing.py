"""Once revoke() says that memory is safe, no byte of it changes, however hard a sender pushes."""

import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sluice.domain.ids import BootId, WorkerId
from sluice.kv_transfer import shm_transport, tcp_receiver
from sluice.kv_transfer.backends import open_backends
from sluice.kv_transfer.inproc_transport import InprocNetwork, InprocTransport
from sluice.kv_transfer.memory import allocate
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, Transport

SIZE = 1 << 20
PIECES = 64
ROUNDS = 60
FENCED = ("inproc", "shm", "tcp")


def pieces() -> Descriptors:
    length = SIZE // PIECES
    offsets = np.arange(PIECES, dtype=np.int64) * length
    return Descriptors(offsets, offsets, np.full(PIECES, length, dtype=np.int64))


class Pusher:
    """A sender that pushes ever new bytes under whatever grant it was last told, on its own thread."""

    def __init__(self, transport: Transport, view: np.ndarray) -> None:
        self._transport, self._view = transport, view
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.grant = b""
        self.ended = 0
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            self._view[:] = number % 255 + 1
            push = Push(push=number, peer=BootId("receiver"), grant=self.grant, descriptors=pieces())
            self._transport.submit(push)
            while self.ended < number and not self._stop.is_set():
                self.ended += len(self._transport.poll())

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every push take many steps, so that revoking falls between them."""
    monkeypatch.setattr(shm_transport, "SLICE_BYTES", 1)
    monkeypatch.setattr(tcp_receiver, "READ_BYTES_MAX", 4096)


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Transport, np.ndarray, Transport, np.ndarray]]:
    network = InprocNetwork()
    memories = [allocate(SIZE, shared=True) for _ in range(2)]
    transports: list[Transport] = []
    for boot, memory in zip(("sender", "receiver"), memories, strict=True):
        if request.param == "inproc":
            transports.append(InprocTransport(network, boot=BootId(boot)))
        else:
            transports += open_backends([request.param], boot=BootId(boot), host="127.0.0.1").transports
        transports[-1].register(memory.region())
    infos = ((request.param, transports[1].local_info()),)
    transports[0].connect(PeerInfo(worker=WorkerId("w"), boot=BootId("receiver"), region_bytes=SIZE, infos=infos))
    arrays = [np.frombuffer(memory.view, dtype=np.uint8) for memory in memories]
    yield transports[0], arrays[0], transports[1], arrays[1]
    for transport in transports:
        transport.close()
    del arrays
    for memory in memories:
        memory.close()


@pytest.mark.parametrize("pair", FENCED, indirect=True)
@pytest.mark.usefixtures("small_steps")
def test_memory_that_is_called_safe_never_changes(
    pair: tuple[Transport, np.ndarray, Transport, np.ndarray],
) -> None:
    sender, source, receiver, target = pair
    pusher = Pusher(sender, source)
    written = 0
    try:
        for number in range(ROUNDS):
            grant = number.to_bytes(4, "big")
            target[:] = 0
            receiver.allow(lease_s=60.0, grant=grant, ranges=pieces())
            pusher.grant = grant
            # How far the pusher gets varies, and the promise does not; but it must get somewhere once.
            deadline_s = time.monotonic() + (0.02 if written else 10.0)
            while not target[SIZE // 2] and time.monotonic() < deadline_s:
                time.sleep(0)  # lets the pusher's thread run
            while not receiver.revoke(grant):
                pass
            after = zlib.crc32(target)
            time.sleep(0.0005)
            assert zlib.crc32(target) == after
            written += bool(target.any())
    finally:
        pusher.stop()
    assert written, "the pusher never got a byte across: this test has shown nothing"


@pytest.mark.parametrize("backend", FENCED)
def test_transports_that_come_and_go_leave_no_file_descriptor(backend: str) -> None:
    def live_once() -> None:
        network, memories, transports = InprocNetwork(), [], []
        for boot in ("sender", "receiver"):
            memories.append(allocate(SIZE, shared=True))
            if backend == "inproc":
                transports.append(InprocTransport(network, boot=BootId(boot)))
            else:
                transports += open_backends([backend], boot=BootId(boot), host="127.0.0.1").transports
            transports[-1].register(memories[-1].region())
        infos = ((backend, transports[1].local_info()),)
        peer = PeerInfo(worker=WorkerId("w"), boot=BootId("receiver"), region_bytes=SIZE, infos=infos)
        for _ in range(3):
            assert transports[0].can_reach(peer)
            transports[0].connect(peer)
            transports[0].disconnect(peer.boot)
        for part in (*transports, *memories):
            part.close()

    def held() -> tuple[int, int]:
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        return descriptors, len(Path("/proc/self/maps").read_text().splitlines())

    live_once()
    before = held()
    for _ in range(10):
        live_once()
    after = held()
    assert after[0] == before[0]
    assert after[1] <= before[1] + 10, "mappings pile up"
