"""Every backend keeps the promises of `transport.Transport`, also when its peer does not."""

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from sluice.domain.ids import BootId, WorkerId
from sluice.errors import TransferError, TransportUnavailableError
from sluice.kv_transfer import shm_transport
from sluice.kv_transfer.backends import BACKENDS, open_backends
from sluice.kv_transfer.inproc_transport import InprocNetwork, InprocTransport
from sluice.kv_transfer.memory import KvMemory, allocate, sweep_stale
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushResult, PushState, Region, Transport

SIZE = 1 << 20
GRANT = bytes(range(32))
PATIENCE_S = 20.0
CHECKS_GRANTS = ("inproc", "shm", "tcp")
CHECKS_RANGES = ("inproc", "tcp")


@dataclass
class Side:
    """One worker: its memory, and its transport."""

    boot: BootId
    memory: KvMemory
    transport: Transport

    @property
    def bytes(self) -> np.ndarray:
        return np.frombuffer(self.memory.view, dtype=np.uint8)

    def info(self) -> PeerInfo:
        infos = ((self.transport.name, self.transport.local_info()),)
        return PeerInfo(worker=WorkerId("w"), boot=self.boot, region_bytes=SIZE, infos=infos)


@dataclass
class House:
    """Makes sides of one backend, and tidies up."""

    backend: str
    network: InprocNetwork = field(default_factory=InprocNetwork)
    sides: list[Side] = field(default_factory=list)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def side(self, boot: str) -> Side:
        memory = allocate(SIZE, shared=True)
        name = BootId(boot)
        if self.backend == "inproc":
            transport: Transport = InprocTransport(self.network, boot=name)
        else:
            backends = open_backends([self.backend], boot=name, host="127.0.0.1")
            if not backends.transports:
                pytest.skip(backends.unavailable[0][1])
            transport = backends.transports[0]
        transport.register(memory.region())
        self.sides.append(Side(name, memory, transport))
        return self.sides[-1]

    def pair(self, *, boots: tuple[str, str] = ("sender", "receiver")) -> tuple[Side, Side]:
        sender, receiver = self.side(boots[0]), self.side(boots[1])
        sender.bytes[:] = np.random.default_rng(3).integers(0, 256, SIZE, dtype=np.uint8)
        sender.transport.connect(receiver.info())
        return sender, receiver

    def process(self, boot: str) -> tuple[subprocess.Popen[str], PeerInfo, str]:
        """A receiver in a process of its own, which lets GRANT write anywhere."""
        script = Path(__file__).with_name("transport_peer.py")
        command = [sys.executable, str(script), self.backend, boot, str(SIZE), GRANT.hex()]
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.processes.append(process)
        assert process.stdout
        hello = json.loads(process.stdout.readline())
        infos = ((self.backend, bytes.fromhex(hello["info"])),)
        info = PeerInfo(worker=WorkerId("w"), boot=BootId(boot), region_bytes=SIZE, infos=infos)
        return process, info, hello["shm"]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        for side in self.sides:
            side.transport.close()
        for side in self.sides:
            side.memory.close()
        sweep_stale()


@pytest.fixture(params=["inproc", *BACKENDS])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    house = House(request.param)
    yield house
    house.close()


def only(*backends: str) -> Callable[..., object]:
    """Run a test for these backends: the others cannot keep this promise, and their docstrings say so."""
    return pytest.mark.parametrize("house", backends, indirect=True)


def ranges(*triples: tuple[int, int, int]) -> Descriptors:
    columns = np.asarray(triples, dtype=np.int64).reshape(-1, 3).T
    return Descriptors(columns[0].copy(), columns[1].copy(), columns[2].copy())


def push(number: int, what: Descriptors, *, grant: bytes = GRANT, peer: str = "receiver") -> Push:
    return Push(push=number, peer=BootId(peer), grant=grant, descriptors=what)


def wait_results(side: Side, count: int) -> list[PushResult]:
    results: list[PushResult] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while len(results) < count:
        assert time.monotonic() < deadline_s, f"only {results} of {count} pushes ended"
        results += side.transport.poll()
        time.sleep(0.0005)
    return results


SCATTERED = ranges((0, 4096, 100), (5000, 0, 1), (9000, 70_000, 4096), (100_000, 200_000, 300_001), (1, 600_000, 77))


def test_scattered_ranges_arrive_and_nothing_else_changes(house: House) -> None:
    sender, receiver = house.pair()
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=SCATTERED)
    sender.transport.submit(push(1, SCATTERED))
    [result] = wait_results(sender, 1)
    assert (result.push, result.state, result.reason) == (1, PushState.DONE, "")
    expected = np.zeros(SIZE, dtype=np.uint8)
    for source, target, length in zip(SCATTERED.source, SCATTERED.target, SCATTERED.length, strict=True):
        expected[target : target + length] = sender.bytes[source : source + length]
    np.testing.assert_array_equal(receiver.bytes, expected)


def test_many_pushes_each_end_exactly_once(house: House) -> None:
    sender, receiver = house.pair()
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 0, SIZE)))
    for number in range(100):
        sender.transport.submit(push(number, ranges((number * 10_000, number * 10_000, 10_000))))
    results = wait_results(sender, 100)
    assert sorted(result.push for result in results) == list(range(100))
    assert {result.state for result in results} == {PushState.DONE}
    assert sender.transport.poll() == []
    np.testing.assert_array_equal(receiver.bytes[:1_000_000], sender.bytes[:1_000_000])


def test_an_empty_push_is_done(house: House) -> None:
    sender, receiver = house.pair()
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 0, 10)))
    sender.transport.submit(push(1, ranges()))
    assert wait_results(sender, 1)[0].state is PushState.DONE


def test_both_directions_work_at_once(house: House) -> None:
    one, other = house.pair()
    other.transport.connect(PeerInfo(worker=WorkerId("v"), boot=one.boot, region_bytes=SIZE, infos=one.info().infos))
    one.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 500_000, 1000)))
    other.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 0, 1000)))
    one.transport.submit(push(1, ranges((0, 0, 1000))))
    other.transport.submit(push(1, ranges((0, 500_000, 1000)), peer="sender"))
    assert wait_results(one, 1)[0].state is PushState.DONE
    assert wait_results(other, 1)[0].state is PushState.DONE


@only(*CHECKS_GRANTS)
def test_a_wrong_grant_writes_nothing_and_later_pushes_still_work(house: House) -> None:
    sender, receiver = house.pair()
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 0, SIZE)))
    sender.transport.submit(push(1, ranges((0, 0, SIZE)), grant=b"wrong" * 6))
    [refused] = wait_results(sender, 1)
    assert refused.state is PushState.FAILED
    assert "grant" in refused.reason
    assert not receiver.bytes.any()
    sender.transport.submit(push(2, ranges((0, 0, 1000))))
    assert wait_results(sender, 1)[0].state is PushState.DONE


@only(*CHECKS_RANGES)
@pytest.mark.parametrize("what", [(0, 999, 10), (0, 2000, 1), (0, 1000, 1001), (0, 0, SIZE - 10)])
def test_a_range_outside_the_grant_writes_nothing(house: House, what: tuple[int, int, int]) -> None:
    sender, receiver = house.pair()
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 1000, 500), (0, 1500, 500)))
    sender.transport.submit(push(1, ranges((0, 1000, 10), what)))
    [result] = wait_results(sender, 1)
    assert (result.state, "outside the grant" in result.reason) == (PushState.FAILED, True)
    assert not receiver.bytes.any()
    sender.transport.submit(push(2, ranges((0, 1000, 1000))))
    assert wait_results(sender, 1)[0].state is PushState.DONE


@pytest.mark.parametrize("what", [(0, SIZE - 1, 2), (SIZE - 1, 0, 2), (-1, 0, 1), (0, -1, 1), (0, 1 << 62, 1 << 62)])
def test_a_range_outside_the_region_fails_and_writes_nothing(house: House, what: tuple[int, int, int]) -> None:
    sender, receiver = house.pair()
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 0, SIZE)))
    sender.transport.submit(push(1, ranges(what)))
    [result] = wait_results(sender, 1)
    assert (result.state, "outside" in result.reason) == (PushState.FAILED, True)
    assert not receiver.bytes.any()


@only(*CHECKS_GRANTS)
def test_after_revoking_nothing_is_written_under_the_grant(house: House) -> None:
    sender, receiver = house.pair()
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 0, SIZE)))
    assert receiver.transport.revoke(GRANT)
    sender.transport.submit(push(1, ranges((0, 0, SIZE))))
    assert wait_results(sender, 1)[0].state is PushState.FAILED
    assert not receiver.bytes.any()
    assert receiver.transport.revoke(GRANT), "revoking again is harmless"
    assert receiver.transport.revoke(b"never granted")


@only("nixl")
def test_a_one_sided_backend_never_promises_that_revoked_memory_is_safe(house: House) -> None:
    _, receiver = house.pair()
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 0, SIZE)))
    assert not receiver.transport.revoke(GRANT)


def test_an_abandoned_push_still_ends_and_is_reported_once(house: House) -> None:
    sender, receiver = house.pair()
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 0, SIZE)))
    for number in range(8):
        sender.transport.submit(push(number, ranges((0, 0, SIZE))))
        sender.transport.abandon(number)
    sender.transport.abandon(99)
    assert sorted(result.push for result in wait_results(sender, 8)) == list(range(8))
    assert sender.transport.poll() == []


def test_pushing_to_a_stranger_fails(house: House) -> None:
    sender, _ = house.pair()
    sender.transport.submit(push(1, ranges((0, 0, 10)), peer="nobody"))
    [result] = wait_results(sender, 1)
    assert (result.state, "not connected" in result.reason) == (PushState.FAILED, True)


def test_after_disconnecting_pushes_fail_until_connected_again(house: House) -> None:
    sender, receiver = house.pair()
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 0, SIZE)))
    sender.transport.disconnect(receiver.boot)
    sender.transport.disconnect(BootId("nobody"))
    sender.transport.submit(push(1, ranges((0, 0, 10))))
    assert wait_results(sender, 1)[0].state is PushState.FAILED
    sender.transport.connect(receiver.info())
    sender.transport.connect(receiver.info())
    sender.transport.submit(push(2, ranges((0, 0, 10))))
    assert wait_results(sender, 1)[0].state is PushState.DONE


def test_connection_data_of_another_backend_or_garbage_is_not_reachable(house: House) -> None:
    sender, receiver = house.pair()
    name = sender.transport.name
    for infos in ((), (("other", receiver.transport.local_info()),), ((name, b""),), ((name, b"\xff{"),)):
        info = PeerInfo(worker=WorkerId("x"), boot=BootId("x"), region_bytes=SIZE, infos=infos)
        assert not sender.transport.can_reach(info)
        with pytest.raises(TransferError):
            sender.transport.connect(info)


@only("shm", "tcp", "nixl")
def test_bytes_arrive_in_another_process(house: House) -> None:
    sender = house.side("sender")
    sender.bytes[:] = 7
    process, info, _ = house.process("receiver")
    sender.transport.connect(info)
    sender.transport.submit(push(1, ranges((0, 1000, SIZE - 1000))))
    assert wait_results(sender, 1)[0].state is PushState.DONE
    assert process.stdin
    assert process.stdout
    process.stdin.write("crc\n")
    process.stdin.flush()
    assert int(process.stdout.readline()) == zlib.crc32(bytes(1000) + b"\7" * (SIZE - 1000))


@only("shm", "tcp", "nixl")
def test_pushes_to_a_killed_peer_fail_and_its_next_incarnation_is_a_new_peer(house: House) -> None:
    sender = house.side("sender")
    process, info, shm_name = house.process("receiver")
    sender.transport.connect(info)
    process.kill()
    process.wait()
    sender.transport.submit(push(1, ranges((0, 0, SIZE))))
    assert wait_results(sender, 1)[0].state is PushState.FAILED
    with pytest.raises(TransferError):
        sender.transport.connect(info)
    _, again, _ = house.process("receiver-2")
    sender.transport.connect(again)
    sender.transport.submit(push(2, ranges((0, 0, SIZE)), peer="receiver-2"))
    assert wait_results(sender, 1)[0].state is PushState.DONE
    assert not (Path("/dev/shm") / shm_name).exists(), "the next worker sweeps what a killed one left"


@only("tcp")
def test_a_peer_restarted_on_the_same_port_is_not_mistaken_for_the_old_one(house: House) -> None:
    sender, receiver = house.side("sender"), house.side("receiver-2")
    stale = PeerInfo(worker=WorkerId("w"), boot=BootId("receiver-1"), region_bytes=SIZE, infos=receiver.info().infos)
    with pytest.raises(TransferError, match="restarted"):
        sender.transport.connect(stale)


@only("shm")
def test_a_stopped_writer_keeps_revoked_memory_unsafe_until_it_is_gone(house: House) -> None:
    receiver = house.side("receiver")
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 0, SIZE)))
    info = receiver.info()
    script = (
        "import sys, time\n"
        "from sluice.kv_transfer.shm_control import PeerBoard\n"
        f"board = PeerBoard({receiver.memory.shm_name!r}, region_bytes={SIZE}, "
        f"nonce=bytes.fromhex({json.loads(dict(info.infos)['shm'])['nonce']!r}))\n"
        f"print(board.begin(bytes.fromhex({GRANT.hex()!r})), flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    house.processes.append(writer)
    assert writer.stdout
    assert writer.stdout.readline().strip() != "None"
    writer.send_signal(signal.SIGSTOP)
    assert not receiver.transport.revoke(GRANT)
    assert not receiver.transport.revoke(GRANT)
    writer.kill()
    writer.wait()
    assert receiver.transport.revoke(GRANT)


@only("shm")
def test_revoking_between_two_slices_stops_the_copy_there(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm_transport, "SLICE_BYTES", 1000)
    sender, receiver = house.pair()
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 0, SIZE)))
    sender.transport.submit(push(1, ranges((0, 0, 1000), (1000, 2000, 1000))))
    assert sender.transport.poll() == []
    assert not receiver.transport.revoke(GRANT), "the writer has not left yet"
    assert "revoked" in sender.transport.poll()[0].reason
    assert receiver.transport.revoke(GRANT)
    assert receiver.bytes[:1000].any()
    assert not receiver.bytes[1000:].any()


@only("shm")
def test_abandoning_between_two_slices_stops_the_copy_there(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm_transport, "SLICE_BYTES", 1000)
    sender, receiver = house.pair()
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 0, SIZE)))
    sender.transport.submit(push(1, ranges((0, 0, 1000), (1000, 2000, 1000))))
    assert sender.transport.poll() == []
    sender.transport.abandon(1)
    assert sender.transport.poll()[0].reason == "abandoned"
    assert receiver.transport.revoke(GRANT)
    assert not receiver.bytes[1000:].any()


@only("inproc")
def test_a_held_back_network_writes_late_and_with_the_bytes_of_then(house: House) -> None:
    sender, receiver = house.pair()
    receiver.transport.allow(lease_s=60.0, grant=GRANT, ranges=ranges((0, 0, 100)))
    house.network.is_held = True
    sender.transport.submit(push(1, ranges((0, 0, 100))))
    sender.transport.abandon(1)
    assert sender.transport.poll() == []
    sender.bytes[:] = 9
    house.network.deliver()
    assert wait_results(sender, 1)[0].state is PushState.DONE
    assert receiver.bytes[:100].tolist() == [9] * 100


@only("shm", "tcp", "inproc")
def test_device_memory_is_refused_by_backends_that_cannot_move_it(house: House) -> None:
    transport = house.side("x").transport
    with pytest.raises(TransportUnavailableError, match=r"device memory|not in shared memory"):
        type(transport).register(transport, Region(address=1, size_bytes=SIZE, device="cuda:0", view=None))


def test_closing_twice_is_harmless_and_stops_the_threads(house: House) -> None:
    sender, receiver = house.pair()
    receiver.transport.close()
    receiver.transport.close()
    sender.transport.close()
    sender.transport.close()
