"""A simulation is worth what it notices: each law is broken on purpose once, and must be missed by somebody."""

from collections.abc import Sequence

import pytest

from sluice.decode_worker import proof
from sluice.decode_worker.arrivals import ArrivalTable
from sluice.domain.ids import Epoch, SequenceId
from sluice.engine.handover import Handover
from sluice.kv_transfer.byte_copy import copy_ranges
from sluice.kv_transfer.transport import Descriptors
from sluice.router.flow import Flow
from sluice.router.reports import Reports
from sluice.router.stream_order import StreamOrder
from sluice.testing.simulation import random_run, virtual_mover
from sluice.testing.simulation.virtual_mover import VirtualMover
from sluice.worker.peers import Peers
from sluice.worker.shell import Shell

RUNS_MAX = 500


def first_broken(words: str) -> str:
    """What the first run that breaks a law says of it."""
    for seed in range(RUNS_MAX):
        for line in random_run.run(seed).broken:
            if words in line:
                return line
    pytest.fail(f"{RUNS_MAX} runs noticed nothing like '{words}'")


def test_a_byte_that_never_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(source: memoryview, target: memoryview, ranges: Descriptors) -> None:
        kept = Descriptors(ranges.source[1:], ranges.target[1:], ranges.length[1:])
        copy_ranges(source, target, kept)

    monkeypatch.setattr(virtual_mover, "copy_ranges", lossy)
    monkeypatch.setattr(proof, "crc32_of_target", lambda *_: 0)
    assert "KV that is not its own" in first_broken("reads KV")


def test_blocks_reused_while_bytes_may_still_land(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: VirtualMover, grant: bytes) -> bool:
        self.open_grants.discard(grant)
        self.quarantine.grant_ended(grant)
        return True

    monkeypatch.setattr(VirtualMover, "revoke", careless)
    first_broken("bytes land")


def test_a_token_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    accept = StreamOrder.accept

    def forgetful(self: StreamOrder[object], *, epoch: int, index: int, row: object) -> Sequence[object]:
        rows = accept(self, epoch=epoch, index=index, row=row)
        return rows if index != 5 else ()

    monkeypatch.setattr(StreamOrder, "accept", forgetful)
    first_broken("c")


def test_two_workers_that_own_one_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handoff that goes on at the source although the target may have taken over."""
    reply = ArrivalTable.commit

    async def deny(self: ArrivalTable, request: object) -> object:
        answer = await reply(self, request)  # type: ignore[arg-type]
        return type(answer)(attached=False, refusal="a lie")

    monkeypatch.setattr(ArrivalTable, "commit", deny)
    monkeypatch.setattr(Flow, "_handoff_failed", lambda self, _why, now_s: self._retarget(now_s))
    monkeypatch.setattr(Shell, "disown", lambda self, sequence: None)
    first_broken("")


def test_a_grant_for_what_is_not_there_where_nobody_calls_the_roll(monkeypatch: pytest.MonkeyPatch) -> None:
    async def idle(self: ArrivalTable, sequence: SequenceId, epoch: Epoch, *, new_epoch: Epoch) -> None:
        """Take the sequence over in words only."""

    monkeypatch.setattr(ArrivalTable, "grant", idle)
    monkeypatch.setattr(Reports, "on_roll", lambda *_, now_s: None)  # which would place the sequence anew
    first_broken("still waiting")


def test_reservations_that_nobody_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handover, "cancel", lambda self, sequence: None)
    first_broken("engine reservations")


def test_a_sender_that_does_not_say_that_it_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(self: Peers, peer: object, request: object) -> None:
        """Tell nobody."""

    monkeypatch.setattr(Peers, "bid_farewell", silent)
    first_broken("left over")
