"""The mover: one thread, futures that always end, and honest accounts of quarantined memory."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from sluice.clock import ManualClock
from sluice.domain.ids import BootId, WorkerId
from sluice.errors import ConfigError, OverloadedError, TransferError, TransportUnavailableError
from sluice.kv_transfer.backends import default_names, open_backends
from sluice.kv_transfer.deadline import deadline_s
from sluice.kv_transfer.inproc_transport import InprocNetwork, InprocTransport
from sluice.kv_transfer.memory import KvMemory, allocate
from sluice.kv_transfer.mover import LATE_FACTOR, RECONNECT_S_MIN, Mover
from sluice.kv_transfer.shm_transport import ShmTransport
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushResult, PushState, Transport

SIZE = 100_000
GRANT = b"g" * 32
PATIENCE_S = 20.0


class Passed:
    """A fence the device has already passed."""

    def wait(self) -> None:
        """Nothing to wait for."""


@dataclass
class Gate:
    """A fence that waits for open()."""

    event: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        assert self.event.wait(PATIENCE_S)


class Broken:
    """A fence whose device has failed."""

    def wait(self) -> None:
        raise RuntimeError("device-side assert")


class Stubborn(InprocTransport):
    """An inproc transport that can be told to refuse connections."""

    refuses = False
    dials = 0

    def connect(self, peer: PeerInfo) -> None:
        self.dials += 1
        if self.refuses:
            raise TransferError("stubborn: no")
        super().connect(peer)


def ranges(length: int = 1000) -> Descriptors:
    zero = np.zeros(1, dtype=np.int64)
    return Descriptors(zero, zero, np.asarray([length], dtype=np.int64))


def push(number: int, *, peer: str = "b", length: int = 1000) -> Push:
    return Push(push=number, peer=BootId(peer), grant=GRANT, descriptors=ranges(length))


@dataclass
class Site:
    """Two movers, `a` and `b`, on one held-backable network."""

    clock: ManualClock = field(default_factory=ManualClock)
    network: InprocNetwork = field(default_factory=InprocNetwork)
    memories: list[KvMemory] = field(default_factory=list)
    movers: list[Mover] = field(default_factory=list)
    transports: dict[str, Stubborn] = field(default_factory=dict)

    def mover(self, boot: str, *, pushes_max: int = 100, first: tuple[Transport, ...] = ()) -> Mover:
        self.memories.append(allocate(SIZE, shared=True))
        transport = self.transports[boot] = Stubborn(self.network, boot=BootId(boot), clock=self.clock)
        region = self.memories[-1].region()
        self.movers.append(Mover([*first, transport], region, clock=self.clock, pushes_max=pushes_max))
        return self.movers[-1]

    def info(self, mover: Mover, boot: str, *, worker: str = "w") -> PeerInfo:
        infos = mover.local_infos()
        return PeerInfo(worker=WorkerId(worker), boot=BootId(boot), region_bytes=SIZE, infos=infos)

    def pair(self, *, pushes_max: int = 100) -> tuple[Mover, Mover]:
        a, b = self.mover("a", pushes_max=pushes_max), self.mover("b")
        assert a.connect(self.info(b, "b")).result(PATIENCE_S) == "inproc"
        b.allow(lease_s=60.0, grant=GRANT, ranges=ranges(SIZE))
        return a, b


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.network.is_held = False
    for mover in site.movers:
        mover.close()
    for memory in site.memories:
        memory.close()


def settle(mover: Mover) -> None:
    """Wait until the mover has carried out everything asked so far."""
    try:
        mover.connect(PeerInfo(worker=WorkerId("?"), boot=BootId("?"), region_bytes=1, infos=())).result(PATIENCE_S)
    except TransferError:
        return


def test_a_push_moves_the_bytes_once_its_fence_has_passed(site: Site) -> None:
    a, _ = site.pair()
    source, target = (np.frombuffer(memory.view, dtype=np.uint8) for memory in site.memories)
    gate = Gate()
    source[:1000] = 1
    future = a.push(push(1), gate)
    source[:1000] = 2
    assert not future.done()
    gate.event.set()
    assert future.result(PATIENCE_S).state is PushState.DONE
    assert target[:1000].tolist() == [2] * 1000


def test_a_fence_that_fails_fails_its_push_and_no_other(site: Site) -> None:
    a, _ = site.pair()
    failed, fine = a.push(push(1), Broken()), a.push(push(2), Passed())
    assert "device-side assert" in failed.result(PATIENCE_S).reason
    assert fine.result(PATIENCE_S).state is PushState.DONE


def test_pushes_from_many_threads_all_end(site: Site) -> None:
    a, _ = site.pair(pushes_max=1000)
    futures: list[Future[PushResult]] = []

    def many(first: int) -> None:
        futures.extend([a.push(push(number), Passed()) for number in range(first, first + 50)])

    threads = [threading.Thread(target=many, args=(first,)) for first in range(0, 200, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = [future.result(PATIENCE_S) for future in futures]
    assert {result.state for result in results} == {PushState.DONE}
    assert sorted(result.push for result in results) == list(range(200))
    [stats] = a.stats.snapshot()
    assert (stats.pushes_done, stats.bytes_done, stats.transport) == (200, 200_000, "inproc")


def test_too_many_pushes_are_refused_at_once_and_room_comes_back(site: Site) -> None:
    a, _ = site.pair(pushes_max=2)
    site.network.is_held = True
    waiting = [a.push(push(number), Passed()) for number in (1, 2)]
    refused = a.push(push(3), Passed())
    assert refused.done()
    assert "too many" in refused.result().reason
    settle(a)
    site.network.is_held = False
    assert all(future.result(PATIENCE_S).state is PushState.DONE for future in waiting)
    assert a.push(push(4), Passed()).result(PATIENCE_S).state is PushState.DONE


def test_a_push_number_in_use_is_refused_and_the_first_goes_on(site: Site) -> None:
    a, _ = site.pair()
    site.network.is_held = True
    first = a.push(push(1), Passed())
    assert "already in flight" in a.push(push(1), Passed()).result(PATIENCE_S).reason
    site.network.is_held = False
    assert first.result(PATIENCE_S).state is PushState.DONE


def test_an_abandoned_push_is_quarantined_until_it_is_terminal(site: Site) -> None:
    a, _ = site.pair()
    site.network.is_held = True
    future = a.push(push(1, length=20_000), Passed())
    assert not future.cancel(), "only the transport says when a push is over"
    a.abandon(1)
    settle(a)
    assert (a.quarantined_bytes, a.quarantine.is_over_bound, future.done()) == (20_000, True, False)
    site.network.is_held = False
    assert future.result(PATIENCE_S).state is PushState.DONE
    assert a.quarantined_bytes == 0


def test_a_push_past_its_deadline_is_quarantined_but_not_called_over(site: Site) -> None:
    a, _ = site.pair()
    site.network.is_held = True
    future = a.push(push(1, length=20_000), Passed())
    settle(a)
    site.clock.advance(LATE_FACTOR * deadline_s(20_000) - 0.1)
    settle(a)
    assert a.quarantined_bytes == 0
    site.clock.advance(0.2)
    settle(a)
    settle(a)  # the first one's poll comes after its answer
    assert (a.quarantined_bytes, future.done()) == (20_000, False)
    assert "deadline" in a.stats.snapshot()[0].last_error
    site.network.is_held = False
    assert future.result(PATIENCE_S).state is PushState.DONE
    assert a.quarantined_bytes == 0


def test_a_revoked_grant_stops_writes_and_an_unsafe_one_is_quarantined(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = site.pair()
    monkeypatch.setattr(site.transports["b"], "revoke", lambda grant: False)
    assert not b.revoke(GRANT)
    assert b.quarantined_bytes == SIZE
    monkeypatch.undo()
    assert b.revoke(GRANT)
    assert b.quarantined_bytes == 0
    assert "grant" in a.push(push(1), Passed()).result(PATIENCE_S).reason


def test_the_senders_word_ends_a_grant_that_no_transport_can_vouch_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, b = site.pair()
    monkeypatch.setattr(site.transports["b"], "revoke", lambda grant: False)
    b.end_grant(GRANT)
    assert b.quarantined_bytes == 0


def test_a_grant_that_one_transport_cannot_take_is_open_on_none(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    shm = ShmTransport()
    b = site.mover("b", first=(shm,))

    def full(**_: object) -> None:
        raise OverloadedError("full", retry_after_s=1)

    monkeypatch.setattr(site.transports["b"], "allow", full)
    with pytest.raises(OverloadedError):
        b.allow(lease_s=60.0, grant=GRANT, ranges=ranges())
    monkeypatch.undo()
    b.allow(lease_s=60.0, grant=GRANT, ranges=ranges())


def test_the_first_transport_that_connects_is_chosen(site: Site) -> None:
    a, b = site.mover("a", first=(ShmTransport(),)), site.mover("b", first=(ShmTransport(),))
    info = site.info(b, "b")
    assert a.transport_names == ("shm", "inproc")
    assert a.connect(info).result(PATIENCE_S) == "shm"
    without_shm = replace(info, boot=BootId("b"), infos=info.infos[1:])
    assert site.mover("c", first=(ShmTransport(),)).connect(without_shm).result(PATIENCE_S) == "inproc"


def test_a_peer_that_nobody_reaches_is_an_error_naming_every_reason(site: Site) -> None:
    a = site.mover("a", first=(ShmTransport(),))
    stranger = PeerInfo(worker=WorkerId("w9"), boot=BootId("x"), region_bytes=SIZE, infos=())
    with pytest.raises(TransferError, match=r"w9 \(x\): shm: .*; inproc: "):
        a.connect(stranger).result(PATIENCE_S)


def test_a_new_incarnation_replaces_the_old_one(site: Site) -> None:
    a, b = site.pair()
    site.network.is_held = True
    old = a.push(push(1), Passed())
    again = site.mover("b2")
    a.connect(site.info(again, "b2")).result(PATIENCE_S)
    assert old.result(PATIENCE_S).state is PushState.FAILED
    assert [stats.boot for stats in a.stats.snapshot()] == ["b2"]
    assert "not connected" in a.push(push(2), Passed()).result(PATIENCE_S).reason
    assert b.is_alive


def test_a_broken_link_is_dialed_again_with_pauses(site: Site) -> None:
    a, _ = site.pair()
    transport = site.transports["a"]
    site.network.is_held = True
    lost = a.push(push(1), Passed())
    settle(a)
    site.network.lose(BootId("b"), reason="cable cut")
    assert lost.result(PATIENCE_S).reason == "cable cut"
    transport.refuses, transport.dials = True, 0
    site.network.is_held = False
    assert "stubborn: no" in a.push(push(2), Passed()).result(PATIENCE_S).reason
    assert "link to the peer is broken" in a.push(push(3), Passed()).result(PATIENCE_S).reason
    assert transport.dials == 1
    assert "stubborn" in a.stats.snapshot()[0].last_error
    transport.refuses = False
    site.clock.advance(RECONNECT_S_MIN)
    assert a.push(push(4), Passed()).result(PATIENCE_S).state is PushState.DONE
    assert a.stats.snapshot()[0].pushes_failed == 1


def test_closing_ends_every_future(site: Site) -> None:
    a, b = site.pair()
    site.network.is_held = True
    running = a.push(push(1), Passed())
    settle(a)
    gate = Gate()
    queued = [a.push(push(2), gate), a.push(push(3), Passed())]
    closer = threading.Thread(target=a.close)
    closer.start()
    gate.event.set()
    closer.join(PATIENCE_S)
    for future in [running, *queued, a.push(push(4), Passed())]:
        assert future.result(PATIENCE_S).state is PushState.FAILED
    with pytest.raises(TransferError, match="closed"):
        a.connect(site.info(b, "b")).result(PATIENCE_S)
    a.close()
    assert not a.is_alive


def test_a_mover_whose_thread_dies_ends_every_future(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    a, _ = site.pair()
    deaths: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", deaths.append)

    def bug() -> list[PushResult]:
        raise ZeroDivisionError

    monkeypatch.setattr(site.transports["a"], "poll", bug)
    assert a.push(push(1), Passed()).result(PATIENCE_S).state is PushState.FAILED
    a._thread.join(PATIENCE_S)
    assert not a.is_alive
    assert deaths[0].exc_type is ZeroDivisionError


def test_a_transport_that_cannot_serve_the_region_is_left_out_with_the_reason() -> None:
    memory = allocate(SIZE, shared=False)
    backends = open_backends(["shm", "tcp"], boot=BootId("a"), host="127.0.0.1")
    mover = Mover(backends.transports, memory.region())
    assert mover.transport_names == ("tcp",)
    assert "not in shared memory" in mover.unavailable["shm"]
    mover.close()
    with pytest.raises(TransportUnavailableError, match="no KV transport"):
        Mover([ShmTransport()], memory.region())
    memory.close()


def test_an_unknown_backend_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="no 'rdma'; choose from shm, tcp, nixl"):
        open_backends(["rdma"], boot=BootId("a"), host="127.0.0.1")
    assert default_names("cpu") == ("shm", "tcp")
    assert default_names("cuda:0") == ("nixl",)


def test_an_idle_mover_does_not_poll(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    a, _ = site.pair()
    polls: list[int] = []
    poll: Callable[[], list[PushResult]] = site.transports["a"].poll

    def counting() -> list[PushResult]:
        polls.append(1)
        return poll()

    monkeypatch.setattr(site.transports["a"], "poll", counting)
    a.push(push(1), Passed()).result(PATIENCE_S)
    settle(a)
    before = len(polls)
    threading.Event().wait(0.02)  # many times the longest pause between polls
    assert len(polls) <= before + 1
