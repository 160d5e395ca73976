"""Whatever happens to workers, a request's tokens leave once and in order, and everyone is told."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.domain.role import FinishReason, Lifecycle, Role
from sluice.errors import (
    CancelledError,
    DeadlineError,
    IncompatiblePeerError,
    InvalidRequestError,
    NoWorkerError,
    OverloadedError,
    WorkerLostError,
)
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


async def test_a_split_request_is_started_with_its_target_and_its_tokens_are_ordered(
    pair: tuple[Desk, Member, Member],
) -> None:
    desk, p, d = pair
    request = desk.submit()
    start = desk.start(p)
    assert start.target.worker == "d"
    assert tuple(start.state.tokens) == PROMPT
    assert start.state.sampling.seed == 7
    a, b, c = desk.encode("a"), desk.encode("b"), desk.encode("c")
    desk.tokens(d, start.state.sequence, b, first=1)
    assert not request.outbox.unread_tokens
    desk.tokens(p, start.state.sequence, a)
    desk.handoff(p, start.state, pb.HANDOFF_COMMITTED, moved_bytes=4096)
    desk.tokens(d, start.state.sequence, c, first=2, finish="length")
    assert await desk.text(request) == "abc"
    assert desk.is_empty()
    (record,) = desk.dispatcher.records.latest(request=None, limit=9)
    assert (record.prefill_worker, record.decode_worker, record.kv_bytes) == ("p", "d", 4096)
    assert record.finish_reason == "length"


async def test_a_decode_worker_counts_as_holding_a_prompt_only_after_its_handoff(
    pair: tuple[Desk, Member, Member],
) -> None:
    desk, p, d = pair
    desk.submit(n=3)
    starts = [message.start for message in desk.told(p)]
    assert [start.target.worker for start in starts] == ["d", "d", "d"], "the siblings may not pile their prefill on it"
    desk.handoff(p, starts[0].state, pb.HANDOFF_COMMITTED)
    desk.submit()
    assert not desk.start(d).HasField("target"), "now it has the prompt"


async def test_a_lost_decode_worker_is_replaced_from_the_last_token(pair: tuple[Desk, Member, Member]) -> None:
    desk, p, d = pair
    request = desk.submit()
    first = desk.start(p).state
    a, b, c = desk.encode("abc")
    desk.tokens(p, first.sequence, [a])
    desk.handoff(p, first, pb.HANDOFF_COMMITTED)
    desk.tokens(d, first.sequence, [b], first=1)
    other = desk.join("d2", Role.DECODE)
    desk.dispatcher.lose(d, "crash")
    again = desk.start(p)
    assert (again.state.epoch, tuple(again.state.tokens)) == (1, (*PROMPT, a, b))
    assert again.state.prompt_tokens == len(PROMPT)
    assert again.target.worker == "d2"
    desk.tokens(other, first.sequence, [c], epoch=1, first=3, finish="length")
    desk.tokens(p, first.sequence, [c], epoch=1, first=2)
    assert await desk.text(request) == "abcc"
    assert desk.is_empty()


async def test_a_lost_prefill_worker_is_replaced_and_the_reservation_cancelled(
    pair: tuple[Desk, Member, Member],
) -> None:
    desk, p, d = pair
    desk.submit()
    first = desk.start(p).state
    desk.dispatcher.lose(p, "crash")
    messages = desk.told(d)
    assert list(cancels(messages)) == [(first.sequence, 0)]
    assert messages[1].start.state.epoch == 1, "the decode worker now does all"


async def test_tokens_of_a_replaced_owner_are_ignored_and_it_is_told_to_stop_once(desk: Desk) -> None:
    old, new = desk.join("a"), desk.join("b")
    request = desk.submit()
    first = next(member for member in (old, new) if member.sequences)
    state = desk.start(first).state
    desk.dispatcher.lose(first, "link lost")
    back = desk.join(first.name)
    second = next(member for member in (old, new) if member is not first)
    desk.start(second)
    for _ in range(3):
        desk.tokens(back, state.sequence, desk.encode("x"))
    assert list(cancels(desk.told(back))) == [(state.sequence, 0)]
    desk.tokens(second, state.sequence, desk.encode("y"), epoch=1, finish="length")
    assert await desk.text(request) == "y"


async def test_a_refused_handoff_goes_to_another_worker_then_stays(pair: tuple[Desk, Member, Member]) -> None:
    desk, p, _ = pair
    desk.join("d2", Role.DECODE)
    request = desk.submit()
    start = desk.start(p)
    names = {start.target.worker}
    for _ in range(2):
        desk.handoff(p, start.state, pb.HANDOFF_REFUSED)
        (message,) = desk.told(p)
        names.add(message.retarget.target.worker)
    assert names == {"d", "d2", ""}
    assert not message.retarget.HasField("target"), "decode where it is"
    desk.tokens(p, start.state.sequence, desk.encode("ab"), finish="length")
    assert await desk.text(request) == "ab"
    assert desk.is_empty()


async def test_a_target_lost_before_the_reservation_is_replaced(pair: tuple[Desk, Member, Member]) -> None:
    desk, p, d = pair
    desk.submit()
    start = desk.start(p)
    desk.dispatcher.lose(d, "crash")
    assert desk.told(p) == [], "the prefill worker goes on; only its report tells what happened"
    desk.handoff(p, start.state, pb.HANDOFF_REFUSED)
    (message,) = desk.told(p)
    assert not message.retarget.HasField("target")


async def test_a_failed_handoff_starts_again_under_a_new_epoch(pair: tuple[Desk, Member, Member]) -> None:
    """The target may have taken the sequence over unheard: nobody goes on under the old epoch."""
    desk, p, d = pair
    other = desk.join("d2", Role.DECODE)
    desk.submit()
    start = desk.start(p)
    target = d if start.target.worker == "d" else other
    desk.handoff(p, start.state, pb.HANDOFF_FAILED)
    assert list(cancels(desk.told(target))) == [(start.state.sequence, 0)]
    stop, again = desk.told(p)
    assert (stop.cancel.epoch, again.start.state.epoch) == (0, 1)
    assert again.start.target.worker != target.name


async def test_a_commit_to_a_lost_target_starts_again_elsewhere(pair: tuple[Desk, Member, Member]) -> None:
    desk, p, d = pair
    desk.submit()
    start = desk.start(p)
    desk.dispatcher.lose(d, "crash")
    desk.handoff(p, start.state, pb.HANDOFF_COMMITTED)
    again = desk.start(p)
    assert again.state.epoch == 1
    assert not again.HasField("target")


async def test_reports_of_a_finished_sequence_still_reach_its_record(pair: tuple[Desk, Member, Member]) -> None:
    desk, p, d = pair
    desk.submit()
    state = desk.start(p).state
    desk.tokens(p, state.sequence, desk.encode("a"))
    desk.tokens(d, state.sequence, desk.encode("b"), first=1, finish="stop")
    desk.handoff(p, state, pb.HANDOFF_COMMITTED, moved_bytes=77)
    desk.handoff(p, state, pb.HANDOFF_COMMITTED, moved_bytes=77)
    (record,) = desk.dispatcher.records.latest(request=None, limit=1)
    assert record.kv_bytes == 77
    assert desk.is_empty()


async def test_a_worker_that_gives_up_is_replaced_but_not_for_ever(desk: Desk) -> None:
    workers = [desk.join(name) for name in "abc"]
    request = desk.submit()
    for _ in range(LIMITS.attempts_max):
        (owner,) = [worker for worker in workers if worker.sequences]
        state = desk.start(owner).state
        failed = pb.SequenceFailed(sequence=state.sequence, epoch=state.epoch, code="internal", message="out of luck")
        desk.dispatcher.on_message(owner, pb.WorkerMessage(failed=failed))
        assert list(cancels(desk.told(owner))) == [(state.sequence, state.epoch)]
    with pytest.raises(WorkerLostError, match="placed 3 times"):
        await request.outbox.take()
    assert desk.is_empty()


async def test_a_request_may_be_computed_elsewhere_as_often_as_the_router_likes(desk: Desk) -> None:
    """Moves that the router itself wants once used up the attempts that are for workers' failures."""
    workers = [desk.join("a"), desk.join("b")]
    request = desk.submit()
    flow = desk.dispatcher.find(request.job.request, 0)
    assert flow is not None
    for _ in range(3 * LIMITS.attempts_max):
        flow.restart(why="test", now_s=desk.clock.now_s())
        desk.dispatcher.tick()
        assert flow.owner in workers
    assert request.error is None
    desk.dispatcher.release(request)
    assert desk.is_empty()


async def test_a_sequence_no_worker_accepts_is_the_clients_mistake(desk: Desk) -> None:
    worker = desk.join("a")
    request = desk.submit()
    state = desk.start(worker).state
    failed = pb.SequenceFailed(
        sequence=state.sequence, epoch=0, code="invalid_argument", message="is too long", field="prompt"
    )
    desk.dispatcher.on_message(worker, pb.WorkerMessage(failed=failed))
    with pytest.raises(InvalidRequestError, match="prompt: is too long"):
        await request.outbox.take()


async def test_a_stop_string_ends_the_choice_and_cancels_the_worker(desk: Desk) -> None:
    worker = desk.join("a")
    request = desk.submit(stops=("EN", "END"))
    state = desk.start(worker).state
    desk.tokens(worker, state.sequence, desk.encode("the E"))
    taken = len(desk.encode("the E"))
    desk.tokens(worker, state.sequence, desk.encode("ND of it"), first=taken)
    (piece,) = await request.outbox.take()
    assert (piece.text, piece.finish) == ("the ", FinishReason.STOP)
    assert list(cancels(desk.told(worker))) == [(state.sequence, 0)]
    assert desk.is_empty()


async def test_the_token_that_ended_a_sequence_adds_no_text(desk: Desk) -> None:
    worker = desk.join("a")
    request = desk.submit()
    state = desk.start(worker).state
    desk.tokens(worker, state.sequence, desk.encode("ab"), finish="stop")
    (piece,) = await request.outbox.take()
    assert (piece.text, len(piece.tokens)) == ("a", 2)


async def test_the_deadline_cancels_everywhere(pair: tuple[Desk, Member, Member]) -> None:
    desk, p, d = pair
    request = desk.submit(timeout_s=0.01)
    state = desk.start(p).state
    with pytest.raises(DeadlineError):
        await asyncio.wait_for(request.outbox.take(), 5)
    assert list(cancels(desk.told(p))) == list(cancels(desk.told(d))) == [(state.sequence, 0)]
    assert desk.is_empty()


async def test_a_client_that_leaves_cancels_all_its_choices(desk: Desk) -> None:
    worker = desk.join("a")
    request = desk.submit(n=3)
    started = {message.start.state.sequence for message in desk.told(worker)}
    assert len(started) == 3
    desk.dispatcher.release(request)
    desk.dispatcher.release(request)
    assert {sequence for sequence, _ in cancels(desk.told(worker))} == started
    assert desk.is_empty()


async def test_a_client_that_does_not_read_is_cut_off(desk: Desk) -> None:
    worker = desk.join("a")
    request = desk.submit()
    state = desk.start(worker).state
    desk.tokens(worker, state.sequence, desk.encode("a") * 25)
    assert await desk.text(request) == "a" * 21
    with pytest.raises(CancelledError, match="reads too slowly"):
        await request.outbox.take()
    assert desk.is_empty()


async def test_requests_wait_while_workers_are_full_and_go_when_there_is_room(desk: Desk) -> None:
    worker = desk.join("a", batch=1)
    requests = [desk.submit() for _ in range(3)]
    first, second = (message.start.state for message in desk.told(worker))
    assert desk.dispatcher.waiting == 1
    desk.tokens(worker, first.sequence, desk.encode("a"), finish="length")
    assert desk.dispatcher.waiting == 0
    assert desk.start(worker).state.sequence > second.sequence
    for request in requests:
        desk.dispatcher.release(request)
    assert desk.is_empty()


async def test_a_full_queue_refuses(desk: Desk) -> None:
    desk.join("a", batch=1)
    for _ in range(6):
        desk.submit()
    with pytest.raises(OverloadedError, match="4 sequences are waiting"):
        desk.submit()


async def test_waiting_has_an_end(desk: Desk) -> None:
    worker = desk.join("a", batch=1)
    requests = [desk.submit() for _ in range(3)]
    desk.clock.advance(31)
    desk.beat(worker)
    desk.dispatcher.tick()
    with pytest.raises(NoWorkerError, match="no worker had room in time"):
        await requests[2].outbox.take()


async def test_a_silent_worker_is_lost(desk: Desk) -> None:
    silent, alive = desk.join("a"), desk.join("b")
    desk.clock.advance(4)
    desk.beat(alive)
    desk.clock.advance(2)
    desk.dispatcher.tick()
    assert [member.name for member in desk.dispatcher.fleet] == ["b"]
    assert silent.link.closed_because == "no heartbeat"


async def test_a_new_incarnation_replaces_the_old_one(desk: Desk) -> None:
    old = desk.join("a")
    desk.submit()
    desk.start(old)
    new = desk.join("a", boot="second")
    assert "replaced" in old.link.closed_because
    assert desk.start(new).state.epoch == 1


async def test_draining_workers_get_nothing_new(desk: Desk) -> None:
    worker = desk.join("a")
    desk.beat(worker, Lifecycle.DRAINING)
    with pytest.raises(NoWorkerError):
        desk.submit()


async def test_a_worker_with_other_weights_is_refused(desk: Desk) -> None:
    desk.join("a")
    with pytest.raises(IncompatiblePeerError, match="model_fingerprint"):
        desk.join("b", fingerprint="other")


async def test_a_lost_only_worker_may_come_back_in_time(desk: Desk) -> None:
    worker = desk.join("a")
    request = desk.submit()
    state = desk.start(worker).state
    desk.tokens(worker, state.sequence, desk.encode("a"))
    desk.dispatcher.lose(worker, "crash")
    assert desk.dispatcher.waiting == 1
    back = desk.join("a", boot="second")
    again = desk.start(back).state
    desk.tokens(back, again.sequence, desk.encode("b"), epoch=again.epoch, first=1, finish="length")
    assert await desk.text(request) == "ab"


async def test_nonsense_from_a_worker_is_named(desk: Desk) -> None:
    worker = desk.join("a")
    with pytest.raises(InvalidRequestError, match="register once"):
        desk.dispatcher.on_message(worker, pb.WorkerMessage(register=pb.Register()))
