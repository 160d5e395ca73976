"""A paced transport moves real bytes at once and says so when the emulated link would have carried them."""

import numpy as np
import pytest

from sluice.clock import ManualClock
from sluice.domain.ids import BootId, WorkerId
from sluice.errors import TransferError
from sluice.kv_transfer.inproc_transport import InprocNetwork, InprocTransport
from sluice.kv_transfer.paced_transport import LinkModel, PacedTransport
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushState, Region

SIZE = 1000


class Pair:
    """A sender and a receiver, both paced."""

    def __init__(self, *, own: float, others: float, scale: float = 1.0) -> None:
        self.clock = ManualClock()
        network = InprocNetwork()
        self.memory = [bytearray(b"s" * SIZE), bytearray(SIZE)]
        self.ends = []
        for number, speed in enumerate((own, others)):
            inner = InprocTransport(network, boot=BootId(f"b{number}"), clock=self.clock)
            link = LinkModel(bytes_per_s=speed, latency_s=0.5, byte_scale=scale)
            end = PacedTransport(inner, link, clock=self.clock)
            view = memoryview(self.memory[number])
            end.register(Region(address=0, size_bytes=SIZE, device="cpu", view=view))
            self.ends.append(end)
        receiver = self.ends[1]
        self.peer = PeerInfo(
            worker=WorkerId("w"),
            boot=BootId("b1"),
            region_bytes=SIZE,
            infos=((receiver.name, receiver.local_info()),),
        )
        ranges = self.ranges(0, SIZE)
        receiver.allow(lease_s=60.0, grant=b"g", ranges=ranges)
        self.ends[0].connect(self.peer)

    @staticmethod
    def ranges(start: int, length: int) -> Descriptors:
        at = np.array([start], dtype=np.int64)
        return Descriptors(source=at, target=at, length=np.array([length], dtype=np.int64))

    def push(self, number: int, length: int) -> None:
        self.ends[0].submit(Push(push=number, peer=BootId("b1"), grant=b"g", descriptors=self.ranges(0, length)))


@pytest.mark.parametrize(("own", "others"), [(100.0, 1000.0), (1000.0, 100.0)])
def test_a_push_takes_the_latency_and_its_bytes_at_the_slower_end(own: float, others: float) -> None:
    pair = Pair(own=own, others=others)
    pair.push(1, 200)
    assert pair.ends[0].poll() == []
    pair.clock.advance(2.49)
    assert pair.ends[0].poll() == []
    assert bytes(pair.memory[1][:200]) == b"s" * 200, "the bytes are there; nobody has been told"
    pair.clock.advance(0.02)
    (result,) = pair.ends[0].poll()
    assert (result.push, result.state, result.seconds) == (1, PushState.DONE, pytest.approx(2.5))
    assert pair.ends[0].poll() == []


def test_pushes_queue_for_the_one_link() -> None:
    pair = Pair(own=100.0, others=100.0)
    for number in (1, 2, 3):
        pair.push(number, 100)
    told = []
    for _ in range(37):
        pair.clock.advance(0.1)
        told += [(result.push, pair.clock.now_s()) for result in pair.ends[0].poll()]
    assert [push for push, _ in told] == [1, 2, 3]
    assert [now_s for _, now_s in told] == pytest.approx([1.5, 2.5, 3.5], abs=0.11)


def test_one_byte_here_stands_for_many_there() -> None:
    pair = Pair(own=100.0, others=100.0, scale=50.0)
    pair.push(1, 10)
    pair.clock.advance(5.4)
    assert pair.ends[0].poll() == []
    pair.clock.advance(0.2)
    assert len(pair.ends[0].poll()) == 1


def test_a_failed_push_is_told_at_once() -> None:
    pair = Pair(own=1.0, others=1.0)
    pair.ends[0].submit(Push(push=1, peer=BootId("b1"), grant=b"not it", descriptors=pair.ranges(0, 900)))
    (result,) = pair.ends[0].poll()
    assert result.state is PushState.FAILED


def test_a_peer_that_is_not_paced_is_refused() -> None:
    pair = Pair(own=1.0, others=1.0)
    plain = PeerInfo(worker=WorkerId("w"), boot=BootId("b1"), region_bytes=SIZE, infos=(("inproc", b""),))
    assert not pair.ends[0].can_reach(plain)
    with pytest.raises(TransferError, match="emulate all or none"):
        pair.ends[0].connect(plain)
