"""The policy moves what runs and changes roles: wishes become orders to workers, within bounds, and leave a trace."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sluice.domain.ids import BootId, SequenceId
from sluice.domain.role import Lifecycle, Role
from sluice.errors import InvalidRequestError, OverloadedError
from sluice.policy.fleet_table import FleetTable
from sluice.policy.joint import Joint
from sluice.policy.policy import Flip, Move, Running
from sluice.router.fleet import Member
from sluice.router.flips import LOAD_S_MAX, RoleChange, Stage
from sluice.testing.dispatch_desk import Desk
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.text import tokenizer as tokenizer_file
from sluice.text.tokenizer import Tokenizer
from sluice.wire.gen import sluice_pb2 as pb


class Wishful(Joint):
    """Wishes what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.wishes: list[Move | Flip] = []
        self.seen: list[Running] = []

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        self.seen = list(running)
        return self.wishes


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_file.load(make_model_directory(Path(tmp_path_factory.mktemp("model"))))


@pytest.fixture
def policy() -> Wishful:
    return Wishful()


@pytest.fixture
def desk(tokenizer: Tokenizer, policy: Wishful) -> Desk:
    return Desk(tokenizer, policy)


def look(desk: Desk, *, times: int = 1) -> None:
    for _ in range(times):
        desk.dispatcher.tend()
        desk.clock.advance(0.1)


def counted(desk: Desk, kind: str, result: str) -> bool:
    line = f'sluice_wishes_total{{kind="{kind}",result="{result}"}}'
    return line in desk.dispatcher.observer.metrics.exposition().decode()


async def two_workers(desk: Desk) -> tuple[Member, Member, pb.SequenceState]:
    """A sequence that decodes on the first of two mixed workers."""
    one = desk.join("one")
    desk.submit()
    state = desk.start(one).state
    desk.tokens(one, state.sequence, desk.encode("ab"))
    return one, desk.join("two"), state


async def test_a_wished_move_is_a_migration_and_its_reason_is_kept(desk: Desk, policy: Wishful) -> None:
    one, two, state = await two_workers(desk)
    policy.wishes = [Move(sequence=SequenceId(state.sequence), to=two.slot, why="for the test")]
    look(desk, times=3)
    (order,) = desk.told(one)
    assert order.migrate.target.worker == "two"
    (seen,) = policy.seen
    assert (seen.slot, seen.output_tokens, seen.is_moving) == (one.slot, 2, True)
    ready = pb.MigrationReport(
        sequence=state.sequence, epoch=0, outcome=pb.MIGRATION_READY, tokens=seen.context_tokens, target_worker="two"
    )
    desk.dispatcher.on_message(one, pb.WorkerMessage(migration=ready))
    (grant,) = desk.told(two)
    assert grant.grant.new_epoch == 1
    (record,) = desk.dispatcher.records.latest(request=None, limit=1)
    assert [(move.to_worker, move.why) for move in record.moves] == [("two", "for the test")]
    assert counted(desk, "move", "begun")
    look(desk)
    assert counted(desk, "move", "unfit"), "it is there already"


async def test_a_sequence_still_in_prefill_is_not_offered(desk: Desk, policy: Wishful) -> None:
    one = desk.join("one")
    desk.submit()
    desk.start(one)
    look(desk)
    assert policy.seen == []


async def test_what_moved_away_is_off_the_books_before_the_next_heartbeat(desk: Desk, policy: Wishful) -> None:
    one, two, state = await two_workers(desk)
    desk.clock.advance(1.0)
    load = pb.Heartbeat(lifecycle="ready", free_blocks=900, running_sequences=1, context_tokens=102)
    desk.dispatcher.on_message(one, pb.WorkerMessage(heartbeat=load))
    policy.wishes = [Move(sequence=SequenceId(state.sequence), to=two.slot, why="for the test")]
    look(desk)
    report = pb.MigrationReport(sequence=state.sequence, epoch=0, outcome=pb.MIGRATION_READY, tokens=102)
    desk.dispatcher.on_message(one, pb.WorkerMessage(migration=report))
    table = desk.dispatcher.fleet.table
    assert (table.running[one.slot], table.context_tokens[one.slot], table.free_blocks[one.slot]) == (0, 0, 907)
    assert table.context_tokens[two.slot] == 102
    desk.clock.advance(1.0)
    desk.beat(one)
    assert (table.running[one.slot], table.context_tokens[one.slot], table.free_blocks[one.slot]) == (0, 0, 1000)


async def test_a_wished_flip_empties_the_worker_turns_it_and_is_counted(desk: Desk, policy: Wishful) -> None:
    roles = {"p0": Role.PREFILL, "p1": Role.PREFILL, "d": Role.DECODE}
    members = {name: desk.join(name, role) for name, role in roles.items()}
    first = members["p0"]
    policy.wishes = [Flip(slot=first.slot, role=Role.DECODE, why="for the test")]
    look(desk, times=3)
    assert not desk.told(first), "not before the wish has lasted"
    look(desk, times=5)
    (order,) = desk.told(first)
    assert order.drain.deadline_s > 0
    desk.beat(first, Lifecycle.DRAINED)
    turn, admit = desk.told(first)
    assert turn.set_role.role == "decode"
    assert admit.drain.resume
    desk.beat(first, role=Role.DECODE)
    assert list(desk.dispatcher.flips) == []
    assert 'sluice_flips_total{outcome="done"} 1.0' in desk.dispatcher.observer.metrics.exposition().decode()


async def test_a_worker_that_cannot_be_emptied_in_time_keeps_its_role_and_admits_again(desk: Desk) -> None:
    member = desk.join("one", Role.PREFILL)
    now_s = desk.clock.now_s()
    flips = desk.dispatcher.flips
    flip = flips.begin(member, Role.DECODE, deadline_s=3.0, why="test", now_s=now_s)
    assert flips.begin(member, Role.DECODE, deadline_s=3.0, why="test", now_s=now_s) is flip
    with pytest.raises(OverloadedError, match="is becoming decode"):
        flips.begin(member, Role.MIXED, deadline_s=3.0, why="test", now_s=now_s)
    desk.told(member)
    for _ in range(10):
        desk.clock.advance(1.0)
        desk.beat(member, Lifecycle.DRAINING)
    (order,) = desk.told(member)
    assert order.drain.resume
    assert flip.over.is_set()
    assert "keeps its role" in flip.problem


def crossing(desk: Desk, role: Role) -> tuple[Member, RoleChange]:
    """A worker of a model that sees, emptied and told to come back with the other half."""
    member = desk.join("one", role)
    member.info = replace(member.info, image_boot=BootId("one-images"))
    other = Role.ENCODE if role is not Role.ENCODE else Role.MIXED
    flip = desk.dispatcher.flips.begin(member, other, deadline_s=5.0, why="test", now_s=desk.clock.now_s())
    desk.told(member)
    desk.beat(member, Lifecycle.DRAINED)
    return member, flip


async def test_a_worker_that_is_to_encode_is_awaited_while_it_loads_the_other_half(desk: Desk) -> None:
    member, flip = crossing(desk, Role.PREFILL)
    (turn,) = desk.told(member)
    assert turn.set_role.role == "encode", "and it is not told to admit work"
    desk.dispatcher.lose(member, "its stream has ended")
    desk.clock.advance(60.0)
    desk.dispatcher.tick()
    assert not flip.over.is_set()
    desk.join("one", Role.ENCODE)
    assert flip.stage is Stage.DONE
    assert list(desk.dispatcher.flips) == []


async def test_a_worker_that_comes_back_as_it_was_or_never_has_not_flipped(desk: Desk) -> None:
    member, flip = crossing(desk, Role.PREFILL)
    desk.dispatcher.lose(member, "killed")
    desk.beat(desk.join("one", Role.PREFILL))
    assert flip.problem == "it came back as prefill"
    member, flip = crossing(desk, Role.PREFILL)
    desk.dispatcher.lose(member, "killed")
    desk.clock.advance(LOAD_S_MAX + 1.0)
    desk.dispatcher.tick()
    assert "has not come back" in flip.problem


async def test_a_worker_that_keeps_its_half_admits_work_again(desk: Desk) -> None:
    member, flip = crossing(desk, Role.MIXED)
    desk.told(member)
    for _ in range(4):
        desk.clock.advance(LOAD_S_MAX / 3)
        desk.beat(member, Lifecycle.DRAINED)
    (admit,) = desk.told(member)
    assert admit.drain.resume
    assert "see its log" in flip.problem


async def test_a_worker_whose_model_reads_text_alone_cannot_encode(desk: Desk) -> None:
    member = desk.join("one", Role.PREFILL)
    with pytest.raises(InvalidRequestError, match="reads text alone"):
        desk.dispatcher.flips.begin(member, Role.ENCODE, deadline_s=5.0, why="test", now_s=desk.clock.now_s())


async def test_a_flip_of_a_worker_that_leaves_has_failed(desk: Desk) -> None:
    member = desk.join("one", Role.MIXED)
    flip = desk.dispatcher.flips.begin(member, Role.DECODE, deadline_s=0.0, why="test", now_s=desk.clock.now_s())
    desk.dispatcher.lose(member, "test")
    desk.dispatcher.tick()
    assert flip.problem == "it is gone"


async def test_the_slower_of_two_routers_finds_that_the_worker_has_become_something_else(desk: Desk) -> None:
    member = desk.join("one", Role.PREFILL)
    flip = desk.dispatcher.flips.begin(member, Role.DECODE, deadline_s=5.0, why="test", now_s=desk.clock.now_s())
    desk.beat(member, Lifecycle.DRAINING)
    desk.beat(member, role=Role.MIXED)
    assert flip.problem == "another router has made it mixed"
    drain, resume = desk.told(member)
    assert (drain.drain.resume, resume.drain.resume) == (False, True), "nobody else ends our drain"


async def test_a_flip_fails_when_somebody_else_ends_its_drain(desk: Desk) -> None:
    member = desk.join("one", Role.PREFILL)
    flip = desk.dispatcher.flips.begin(member, Role.DECODE, deadline_s=0.0, why="test", now_s=desk.clock.now_s())
    desk.beat(member)
    assert not flip.over.is_set(), "the order may still be on its way"
    desk.beat(member, Lifecycle.DRAINING)
    desk.beat(member)
    assert "somebody else let it admit work again" in flip.problem
