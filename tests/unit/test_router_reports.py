"""What workers say of sequences that this router does not know, or knows better: nothing stays held, nobody waits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.domain.role import Role
from sluice.router.fleet import Member
from sluice.testing.dispatch_desk import LIMITS, PROMPT, Desk
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.text import tokenizer as tokenizer_file
from sluice.text.tokenizer import Tokenizer
from sluice.wire.gen import sluice_pb2 as pb


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_file.load(make_model_directory(Path(tmp_path_factory.mktemp("model"))))


@pytest.fixture
async def desk(tokenizer: Tokenizer) -> Desk:
    return Desk(tokenizer)


@pytest.fixture
async def pair(desk: Desk) -> tuple[Desk, Member, Member]:
    return desk, desk.join("p", Role.PREFILL), desk.join("d", Role.DECODE)


def cancels(messages: list[pb.RouterMessage]) -> Iterator[tuple[int, int]]:
    return ((m.cancel.sequence, m.cancel.epoch) for m in messages if m.WhichOneof("body") == "cancel")


async def test_a_sequence_that_the_only_worker_refuses_to_begin_waits_and_uses_up_no_attempt(desk: Desk) -> None:
    """ "Place elsewhere" with nowhere else was asked again at once, until no attempt was left."""
    worker = desk.join("a")
    request = desk.submit()
    for _ in range(5 * LIMITS.attempts_max):
        state = desk.start(worker).state
        failed = pb.SequenceFailed(
            sequence=state.sequence, epoch=state.epoch, code="unavailable", message="place elsewhere", unstarted=True
        )
        desk.dispatcher.on_message(worker, pb.WorkerMessage(failed=failed))
        assert not [message for message in desk.told(worker) if message.HasField("start")]
        desk.dispatcher.tick()
    assert request.error is None
    desk.dispatcher.release(request)
    assert desk.is_empty()


async def test_a_sequence_that_is_refused_goes_to_another_worker_at_once(desk: Desk) -> None:
    workers = [desk.join("a"), desk.join("b")]
    desk.submit()
    (first,) = [worker for worker in workers if worker.sequences]
    (second,) = [worker for worker in workers if worker is not first]
    state = desk.start(first).state
    failed = pb.SequenceFailed(sequence=state.sequence, epoch=0, code="unavailable", message="no", unstarted=True)
    desk.dispatcher.on_message(first, pb.WorkerMessage(failed=failed))
    assert desk.start(second).state.epoch == 1


@pytest.mark.parametrize("is_ended", [True, False])
async def test_a_refused_handoff_that_nobody_will_answer_is_cancelled(
    pair: tuple[Desk, Member, Member], *, is_ended: bool
) -> None:
    """The prefill worker held the sequence for ever: it waits for an answer to its refusal."""
    desk, p, d = pair
    request = desk.submit()
    state = desk.start(p).state
    if is_ended:
        desk.dispatcher.release(request)
    else:
        desk.dispatcher.find(request.job.request, 0).restart(why="test", now_s=desk.clock.now_s())  # type: ignore[union-attr]
    assert list(cancels(desk.told(p))) == [(state.sequence, 0)]
    desk.handoff(p, state, pb.HANDOFF_REFUSED)
    assert (state.sequence, 0) in cancels(desk.told(p))
    assert d.name == "d"


async def test_a_sequence_that_does_not_stop_when_told_is_told_again_but_not_with_every_token(desk: Desk) -> None:
    worker = desk.join("a")
    request = desk.submit()
    state = desk.start(worker).state
    desk.dispatcher.release(request)
    desk.told(worker)
    for second in range(3):
        desk.clock.advance(1.0)
        desk.beat(worker)
        for index in range(10):
            desk.tokens(worker, state.sequence, [65], first=10 * second + index)
        assert list(cancels(desk.told(worker))) == [(state.sequence, 0)]


def roll(desk: Desk, worker: Member, *rows: tuple[int, int], heard: int) -> None:
    """A heartbeat that names these sequences and epochs."""
    load = pb.Heartbeat(lifecycle="ready", free_blocks=1000)
    load.roll.CopyFrom(pb.Roll(sequence=[row[0] for row in rows], epoch=[row[1] for row in rows], heard=heard))
    desk.dispatcher.on_message(worker, pb.WorkerMessage(heartbeat=load))


async def test_a_sequence_that_its_living_worker_has_forgotten_goes_on_after_two_heartbeats(desk: Desk) -> None:
    """Only the request's deadline noticed it."""
    a, b = desk.join("a"), desk.join("b")
    request = desk.submit()
    first, second = (a, b) if a.sequences else (b, a)
    start = desk.start(first)
    desk.tokens(first, start.state.sequence, desk.encode("a"))
    roll(desk, first, (start.state.sequence, 0), heard=9)
    roll(desk, first, heard=9)
    assert not desk.told(second)
    roll(desk, first, heard=9)
    again = desk.start(second)
    assert (again.state.epoch, again.state.tokens[len(PROMPT) :]) == (1, desk.encode("a"))
    assert list(cancels(desk.told(first))) == [(start.state.sequence, 0)]
    assert request.error is None


async def test_a_sequence_that_is_still_on_its_way_to_its_worker_is_not_missed(desk: Desk) -> None:
    a = desk.join("a")
    before = a.link.sent
    desk.submit()
    for _ in range(3):
        roll(desk, a, heard=before)
    start = desk.start(a)
    roll(desk, a, heard=before + 1)
    assert list(cancels(desk.told(a))) == [(start.state.sequence, 0)]


async def test_strangers_in_a_roll_are_cancelled(desk: Desk) -> None:
    a = desk.join("a")
    desk.submit()
    start = desk.start(a)
    roll(desk, a, (start.state.sequence, 0), (77, 4), heard=9)
    assert list(cancels(desk.told(a))) == [(77, 4)]


async def test_a_refused_handoff_is_never_aimed_at_the_worker_that_has_the_sequence(
    pair: tuple[Desk, Member, Member],
) -> None:
    """A prefill worker that has become a decode worker was named to itself; its loss then went unnoticed for ever."""
    desk, p, _ = pair
    request = desk.submit()
    state = desk.start(p).state
    beat = pb.Heartbeat(lifecycle="ready", free_blocks=1000, role="decode")
    desk.dispatcher.on_message(p, pb.WorkerMessage(heartbeat=beat))
    desk.handoff(p, state, pb.HANDOFF_REFUSED)
    (answer,) = desk.told(p)
    assert not answer.retarget.HasField("target")
    desk.handoff(p, state, pb.HANDOFF_REFUSED)
    assert state.sequence in p.sequences
    desk.dispatcher.lose(p, "test")
    flow = desk.dispatcher.find(request.job.request, 0)
    assert flow is not None
    assert flow.owner is not p
