"""A client comes back to another router: it gets the rest of its text, once, wherever the sequence is found."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.domain.ids import Epoch, RequestId, RouterId
from sluice.domain.role import FinishReason
from sluice.errors import CancelledError, InvalidRequestError
from sluice.router import event_ids
from sluice.router.claims import Claims, Copy
from sluice.router.event_ids import CHOICES_MAX, EventIds
from sluice.router.fleet import Member
from sluice.router.flow import ADOPTION_EPOCHS
from sluice.router.job import Job
from sluice.router.openai_replies import Endpoint, ReplyWriter, UsageEvent
from sluice.router.output import Delivery, Piece
from sluice.router.request import Request
from sluice.testing.dispatch_desk import PROMPT, Desk
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.text import tokenizer as tokenizer_file
from sluice.text.tokenizer import Tokenizer
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb

TEXT = "A river — größer als 海 — finds the sea; it must STOP here, mustn't it? 🚣🏽 and on"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_file.load(make_model_directory(Path(tmp_path_factory.mktemp("model"))))


@pytest.fixture
async def desk(tokenizer: Tokenizer) -> Desk:
    return Desk(tokenizer)


async def text_now(request: Request) -> str:
    return "".join([piece.text for piece in await request.outbox.take()])


async def begun(desk: Desk, *, stops: tuple[str, ...] = (), n: int = 1) -> tuple[Job, list[pb.SequenceState]]:
    """A request as an earlier router had started it: its job, and what the worker was sent."""
    member = desk.join("earlier")
    request = desk.submit(stops=stops, n=n)
    states = [message.start.state for message in desk.told(member)]
    desk.dispatcher.release(request)
    desk.dispatcher.lose(member, "test")
    return request.job, states


def copy_of(member: Member, state: pb.SequenceState, tokens: list[int], finish: FinishReason | None = None) -> Copy:
    domain = convert.state_from_wire(state)
    domain = replace(domain, tokens=(*PROMPT, *tokens), router=RouterId("earlier"), epoch=Epoch(3))
    return Copy(member=member, state=domain, finish=finish)


def resume(desk: Desk, job: Job, next_index: tuple[int, ...], copies: Mapping[int, Copy]) -> Request:
    return desk.dispatcher.submit(replace(job, next_index=next_index), Delivery.EACH_STEP, copies)


async def test_an_adopted_sequence_goes_on_where_it_is_under_a_much_higher_epoch(desk: Desk) -> None:
    job, (state,) = await begun(desk)
    member, tokens = desk.join("w"), desk.encode(TEXT)
    request = resume(desk, job, (4,), {0: copy_of(member, state, tokens[:9])})
    (message,) = desk.told(member)
    adopt = message.adopt
    assert (adopt.sequence, adopt.epoch, adopt.router, adopt.next_index) == (state.sequence, 3, "r", 9)
    assert adopt.new_epoch == 3 + ADOPTION_EPOCHS
    desk.tokens(member, state.sequence, tokens[9:12], epoch=3, first=9)  # of the earlier owner: void
    desk.tokens(member, state.sequence, tokens[9:12], epoch=adopt.new_epoch, first=9, finish="length")
    (piece,) = await request.outbox.take()
    assert (piece.first_index, piece.tokens, piece.finish) == (4, tokens[4:12], FinishReason.LENGTH)
    assert await request.outbox.take() == []
    assert desk.is_empty()


async def test_an_adopted_sequence_whose_worker_is_lost_goes_on_elsewhere(desk: Desk) -> None:
    job, (state,) = await begun(desk)
    member, tokens = desk.join("w"), desk.encode(TEXT)
    resume(desk, job, (0,), {0: copy_of(member, state, tokens[:9])})
    other = desk.join("other")
    desk.dispatcher.lose(member, "test")
    start = desk.start(other)
    assert list(start.state.tokens[len(PROMPT) :]) == tokens[:9]
    assert start.state.epoch == 3 + ADOPTION_EPOCHS + 1


async def test_a_worker_that_let_it_go_meanwhile_has_it_computed_again(desk: Desk) -> None:
    job, (state,) = await begun(desk)
    member, tokens = desk.join("w"), desk.encode(TEXT)
    resume(desk, job, (2,), {0: copy_of(member, state, tokens[:9])})
    failed = pb.SequenceFailed(sequence=state.sequence, epoch=3 + ADOPTION_EPOCHS, code="unavailable", message="gone")
    desk.told(member)
    desk.dispatcher.on_message(member, pb.WorkerMessage(failed=failed))
    starts = [message.start for message in desk.told(member) if message.HasField("start")]
    assert [list(start.state.tokens[len(PROMPT) :]) for start in starts] == [tokens[:9]]


async def test_one_choice_is_found_and_the_other_computed_from_its_first_token(desk: Desk) -> None:
    job, (first, second) = await begun(desk, n=2)
    member, tokens = desk.join("w"), desk.encode(TEXT)
    request = resume(desk, job, (5, 2), {1: copy_of(member, second, tokens[:6])})
    told = desk.told(member)
    (start,) = [message.start for message in told if message.HasField("start")]
    assert (start.state.choice, len(start.state.tokens)) == (0, len(PROMPT))
    assert start.state.sampling == first.sampling
    desk.tokens(member, start.state.sequence, tokens[:7], finish="length")
    pieces = {piece.choice: piece for piece in await request.outbox.take()}
    assert (pieces[0].first_index, pieces[0].tokens) == (5, tokens[5:7])
    assert (pieces[1].first_index, pieces[1].tokens) == (2, tokens[2:6])


async def test_a_client_that_has_all_of_a_choice_is_sent_nothing_of_it_again(desk: Desk) -> None:
    job, (state,) = await begun(desk)
    member, tokens = desk.join("w"), desk.encode(TEXT)
    request = resume(desk, job, (9,), {0: copy_of(member, state, tokens[:9], FinishReason.LENGTH)})
    assert await request.outbox.take() == []
    assert desk.is_empty()


async def test_the_former_router_ends_a_request_that_another_has_taken_over(desk: Desk) -> None:
    member = desk.join("w")
    request = desk.submit()
    state = desk.start(member).state
    failed = pb.SequenceFailed(sequence=state.sequence, epoch=0, code="cancelled", message="taken over")
    desk.dispatcher.on_message(member, pb.WorkerMessage(failed=failed))
    with pytest.raises(CancelledError, match="taken over"):
        await request.outbox.take()
    assert desk.is_empty()


async def test_the_newest_copy_is_chosen_and_the_others_cancelled(desk: Desk) -> None:
    job, (state,) = await begun(desk)
    old, new, empty = desk.join("old"), desk.join("new"), desk.join("empty")
    claims = Claims(desk.dispatcher.fleet)
    asking = asyncio.create_task(claims.ask(job))
    await asyncio.sleep(0)
    for member, epoch, count in ((old, 2, 8), (new, 3, 5)):
        (message,) = desk.told(member)
        assert message.claim.request == job.request
        copy = pb.SequenceState()
        copy.CopyFrom(state)
        copy.epoch = epoch
        copy.tokens.extend(range(count))
        claims.on_answer(member, pb.Copies(request=job.request, copies=[pb.Copy(state=copy)]))
    assert not asking.done()
    claims.on_lost(empty)
    assert (await asking)[0].member is new
    (cancel,) = desk.told(old)
    assert (cancel.cancel.sequence, cancel.cancel.epoch) == (state.sequence, 2)


async def test_log_probabilities_are_computed_again_since_nobody_keeps_them(desk: Desk) -> None:
    job, (state,) = await begun(desk)
    state.sampling.top_logprobs = 2
    job = replace(job, sampling=replace(job.sampling, top_logprobs=2))
    member = desk.join("w")
    claims = Claims(desk.dispatcher.fleet)
    asking = asyncio.create_task(claims.ask(job))
    await asyncio.sleep(0)
    claims.on_answer(member, pb.Copies(request=job.request, copies=[pb.Copy(state=state)]))
    assert not await asking
    assert [message.WhichOneof("body") for message in desk.told(member)] == ["claim", "cancel"]


async def test_a_copy_of_another_prompt_is_nobodys_business(desk: Desk) -> None:
    job, (state,) = await begun(desk)
    member = desk.join("w")
    state.tokens[3] += 1
    claims = Claims(desk.dispatcher.fleet)
    asking = asyncio.create_task(claims.ask(job))
    await asyncio.sleep(0)
    claims.on_answer(member, pb.Copies(request=job.request, copies=[pb.Copy(state=state)]))
    with pytest.raises(InvalidRequestError, match="another body"):
        await asking


@settings(max_examples=150, deadline=None)
@given(data=st.data(), stops=st.sampled_from([(), ("STOP",), ("sea", "🚣🏽")]))
def test_wherever_a_stream_breaks_its_two_parts_make_the_whole_text(
    tokenizer: Tokenizer, data: st.DataObject, stops: tuple[str, ...]
) -> None:
    """Letters of several bytes and half-seen stop strings are held back; they must come once, and whole."""

    async def run() -> None:
        first, second = Desk(tokenizer), Desk(tokenizer)
        tokens = first.encode(TEXT)
        found = data.draw(st.integers(0, len(tokens)), label="tokens the worker has")
        have = data.draw(st.integers(0, found), label="tokens the client has")
        worker = first.join("w")
        request = first.submit(stops=stops)
        state = first.start(worker).state
        parts: list[str] = []
        for index, token in enumerate(tokens):
            if request.open_sequences:
                finish = "length" if index == len(tokens) - 1 else ""
                first.tokens(worker, state.sequence, [token], first=index, finish=finish)
                parts.append(await text_now(request))
        head = "".join(parts[:have])
        member = second.join("w")
        again = resume(second, request.job, (have,), {0: copy_of(member, state, tokens[:found])})
        tail = await text_now(again) if found > have or not again.open_sequences else ""
        for index in range(found, len(tokens)):
            if not again.open_sequences:
                break
            finish = "length" if index == len(tokens) - 1 else ""
            epoch = 3 + ADOPTION_EPOCHS
            second.tokens(member, state.sequence, [tokens[index]], epoch=epoch, first=index, finish=finish)
            tail += await text_now(again)
        if found == len(tokens) and again.open_sequences:
            return  # the worker had all tokens and no reason to end: nothing more will come
        assert head + tail == "".join(parts)

    asyncio.run(run())


async def test_a_resumed_chat_is_not_introduced_again_and_counts_all_its_tokens(desk: Desk) -> None:
    job, _ = await begun(desk, n=2)
    for next_index, introduced in (((0, 0), 2), ((4, 0), 1), ((4, 2), 0)):
        writer = ReplyWriter(
            replace(job, next_index=next_index),
            Endpoint.CHAT,
            model="m",
            tokenizer=desk.tokenizer,
            usage_event=UsageEvent.SEND,
        )
        pieces = [Piece(choice, first, text="x", tokens=[7]) for choice, first in enumerate(next_index)]
        events = writer.events(pieces)
        assert events.count(b'"role":"assistant"') == introduced
        assert f"id: {job.request}/{next_index[0] + 1}.{next_index[1] + 1}\ndata: ".encode() in events
        assert f'"completion_tokens":{sum(next_index) + 2}'.encode() in writer.last_events()


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=CHOICES_MAX))
def test_an_event_id_says_what_its_client_has(counts: list[int]) -> None:
    ids = EventIds(RequestId("cmpl-1/x"), counts)
    line = ids.line(0, counts[0])
    assert line.startswith(b"id: ")
    assert event_ids.parse(line[4:].decode().strip()) == ("cmpl-1/x", tuple(counts))


def test_each_choice_moves_its_own_count_on() -> None:
    ids = EventIds(RequestId("r"), [0, 7])
    assert ids.line(0, 3) == b"id: r/3.7\n"
    assert ids.line(1, 8) == b"id: r/3.8\n"
    assert EventIds(RequestId("r"), [0] * (CHOICES_MAX + 1)).line(4, 1) == b""


@pytest.mark.parametrize(
    "text", ["", "r", "r/", "/3", "r/x", "r/1.", "r/-1", "r/1..2", "r\n/1", "ä/1", f"{'x' * 200}/1"]
)
def test_what_is_not_an_event_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="last-event-id"):
        event_ids.parse(text)
