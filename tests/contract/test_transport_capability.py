"""A capability opens its blocks, for its tenant, until its lease ends: on every backend that can check."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from sluice.domain.block_hash import root_hash
from sluice.domain.ids import BootId, WorkerId
from sluice.kv_transfer import capability, memory
from sluice.kv_transfer.backends import open_backends
from sluice.kv_transfer.inproc_transport import InprocNetwork, InprocTransport
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushResult, PushState, Transport

SIZE = 100_000
PATIENCE_S = 20.0
OURS = root_hash(model_fingerprint="m", salt="our tenant")
THEIRS = root_hash(model_fingerprint="m", salt="another tenant")


@dataclass
class Two:
    """A sender connected to a receiver."""

    sender: Transport
    receiver: Transport
    written: memoryview  # the receiver's region

    def push(self, number: int, grant: bytes) -> PushResult:
        self.sender.submit(Push(push=number, peer=BootId("receiver"), grant=grant, descriptors=whole()))
        deadline_s = time.monotonic() + PATIENCE_S
        while not (results := self.sender.poll()):
            assert time.monotonic() < deadline_s
            time.sleep(0.0005)
        return results[0]


def whole() -> Descriptors:
    zero = np.zeros(1, dtype=np.int64)
    return Descriptors(zero, zero, np.asarray([SIZE], dtype=np.int64))


@pytest.fixture(params=["inproc", "shm", "tcp"])
def two(request: pytest.FixtureRequest) -> Iterator[Two]:
    network, regions, sides = InprocNetwork(), [], {}
    for name in ("sender", "receiver"):
        region = memory.allocate(SIZE, shared=request.param == "shm")
        if request.param == "inproc":
            side: Transport = InprocTransport(network, boot=BootId(name))
        else:
            (side,) = open_backends([request.param], boot=BootId(name), host="127.0.0.1").transports
        side.register(region.region())
        regions.append(region)
        sides[name] = side
    regions[0].view[:] = b"x" * SIZE
    receiver = sides["receiver"]
    info = PeerInfo(
        worker=WorkerId("w"),
        boot=BootId("receiver"),
        region_bytes=SIZE,
        infos=((receiver.name, receiver.local_info()),),
    )
    sides["sender"].connect(info)
    yield Two(sides["sender"], receiver, regions[1].view)
    for side in sides.values():
        side.close()
    for region in regions:
        region.close()


def test_the_tenant_it_was_made_for_may_write_and_another_may_not(two: Two) -> None:
    secret = capability.fresh_secret()
    two.receiver.allow(grant=capability.bind(secret, root=OURS), ranges=whole(), lease_s=60.0)
    for number, token in enumerate((secret, capability.bind(secret, root=THEIRS), b"", bytes(16))):
        refused = two.push(number, token)
        assert (refused.state, "grant" in refused.reason) == (PushState.FAILED, True)
        assert not any(two.written)
    assert two.push(9, capability.bind(secret, root=OURS)).state is PushState.DONE
    assert bytes(two.written[:3]) == b"xxx"


def test_one_that_has_run_out_writes_nothing_and_a_late_renewal_revives_it_not(two: Two) -> None:
    grant = capability.bind(capability.fresh_secret(), root=OURS)
    two.receiver.allow(grant=grant, ranges=whole(), lease_s=0.0)
    for number in range(2):
        refused = two.push(number, grant)
        assert (refused.state, "has run out" in refused.reason) == (PushState.FAILED, True)
        two.receiver.renew(grant, lease_s=60.0)
    assert not any(two.written)


def test_one_that_is_renewed_in_time_goes_on(two: Two) -> None:
    grant = capability.bind(capability.fresh_secret(), root=OURS)
    two.receiver.allow(grant=grant, ranges=whole(), lease_s=5.0)
    two.receiver.renew(grant, lease_s=60.0)
    two.receiver.renew(grant, lease_s=0.0)
    assert two.push(1, grant).state is PushState.DONE
