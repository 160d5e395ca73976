"""Whatever happens to encode workers, a prompt gets each of its images once, or is told that it will not."""

import asyncio
import dataclasses
import itertools
from pathlib import Path

import pytest

from sluice.domain.block_hash import extend_chain
from sluice.domain.ids import WorkerId
from sluice.domain.image import embedding_root, embedding_tokens
from sluice.domain.role import Lifecycle, Role
from sluice.errors import IllegalTransitionError, IncompatiblePeerError, InvalidRequestError, NoWorkerError
from sluice.router import showing
from sluice.router.fleet import Member
from sluice.router.looks import LOOK_S_MAX, LOOKS_MAX
from sluice.router.showing import Event, State
from sluice.router.showings import ATTEMPTS_MAX, REFUSALS_MAX
from sluice.testing.dispatch_desk import ROOT
from sluice.testing.image_desk import IMAGE_TOKENS, TILED, ImageDesk, digest_of
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.text import tokenizer as tokenizer_file
from sluice.text.tokenizer import Tokenizer
from sluice.wire.gen import sluice_pb2 as pb

A, B = b"picture a", b"picture b"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_file.load(make_model_directory(Path(tmp_path_factory.mktemp("model"))))


@pytest.fixture
async def desk(tokenizer: Tokenizer) -> ImageDesk:
    return ImageDesk(tokenizer)


def test_every_pair_of_state_and_event_is_in_the_table_or_refused() -> None:
    legal = {
        (State.LOOKING, Event.LOOKED): State.SENT,
        (State.LOOKING, Event.FAILED): State.DONE,
        (State.LOOKING, Event.ENDED): State.DONE,
        (State.SENT, Event.COMMITTED): State.DONE,
        (State.SENT, Event.REFUSED): State.PAUSED,
        (State.SENT, Event.LOST): State.LOOKING,
        (State.SENT, Event.FAILED): State.DONE,
        (State.SENT, Event.ENDED): State.DONE,
        (State.PAUSED, Event.TIME): State.SENT,
        (State.PAUSED, Event.LOST): State.LOOKING,
        (State.PAUSED, Event.FAILED): State.DONE,
        (State.PAUSED, Event.ENDED): State.DONE,
    }
    for pair in itertools.product(State, Event):
        if pair in legal:
            assert showing.advance(*pair)[0] is legal[pair]
        else:
            with pytest.raises(IllegalTransitionError):
                showing.advance(*pair)


async def test_pictures_of_a_request_are_spread_over_encode_workers(desk: ImageDesk) -> None:
    encoders = [desk.encoder(f"e{number}") for number in range(4)]
    desk.reader("m")
    asking = asyncio.ensure_future(desk.submit_pictures(*(bytes([number]) for number in range(8))))
    await asyncio.sleep(0)
    assert [len(desk.only(encoder, "look")) for encoder in encoders] == [2, 2, 2, 2]
    asking.cancel()


async def test_encode_workers_of_one_class_share_evenly_though_only_some_have_been_measured(desk: ImageDesk) -> None:
    encoders = [desk.encoder(f"e{number}") for number in range(4)]
    desk.reader("m")
    table = desk.dispatcher.fleet.table
    table.prefill_token_s[encoders[0].slot] = 0.004  # it has encoded; the others are thought to be as fast as can be
    asking = asyncio.ensure_future(desk.submit_pictures(*(bytes([number]) for number in range(8))))
    await asyncio.sleep(0)
    assert [len(desk.only(encoder, "look")) for encoder in encoders] == [2, 2, 2, 2]
    asking.cancel()


async def test_an_image_is_looked_at_then_sent_to_where_its_prompt_is(desk: ImageDesk) -> None:
    encoder, reader = desk.encoder("e"), desk.reader("m")
    await desk.submit_looked_at(encoder, A)
    (prompt,) = desk.only(reader, "start")
    (start,) = desk.only(encoder, "start")
    state = start.start.state
    assert start.start.target.kv_address == "m:2"
    assert state.viewer == prompt.start.state.sequence
    tokens = embedding_tokens(digest_of(A), IMAGE_TOKENS)
    assert tuple(state.tokens) == tokens
    assert state.unit_hashes == b"".join(extend_chain(embedding_root(ROOT), tokens))
    desk.handoff(encoder, state, pb.HANDOFF_COMMITTED, moved_bytes=100)
    desk.handoff(encoder, state, pb.HANDOFF_COMMITTED)  # late and twice: nothing follows
    assert next(iter(desk.dispatcher.records.latest(request=None, limit=1))).images_bytes == 100


async def test_a_known_picture_needs_no_look_where_it_is_cached(desk: ImageDesk) -> None:
    encoder, other, reader = desk.encoder("e"), desk.encoder("f"), desk.reader("m")
    await desk.submit_looked_at(encoder, A)
    desk.told(encoder)
    hashes = b"".join(extend_chain(embedding_root(ROOT), embedding_tokens(digest_of(A), IMAGE_TOKENS)))
    desk.dispatcher.on_message(other, pb.WorkerMessage(prefix=pb.PrefixUpdate(stored=hashes)))
    await desk.submit_pictures(A, request="again")
    assert desk.only(encoder, "start") == []
    (start,) = desk.only(other, "start")
    assert start.start.target.worker == reader.name


async def test_a_lost_encode_workers_pictures_are_looked_at_elsewhere(desk: ImageDesk) -> None:
    first, second = desk.encoder("e"), desk.encoder("f")
    desk.reader("m")
    asking = asyncio.ensure_future(desk.submit_pictures(A))
    await asyncio.sleep(0)
    assert desk.only(first, "look")
    desk.dispatcher.lose(first, "killed")
    (look,) = desk.only(second, "look")
    desk.looked(second, look.look)
    await asking
    assert desk.only(second, "start")


async def test_a_lost_encode_workers_share_of_a_running_prompt_is_redone_elsewhere(desk: ImageDesk) -> None:
    first, reader = desk.encoder("e"), desk.reader("m")
    await desk.submit_looked_at(first, A, B)
    done, lost = desk.only(first, "start")
    desk.handoff(first, done.start.state, pb.HANDOFF_COMMITTED)
    second = desk.encoder("f")
    desk.dispatcher.lose(first, "killed")
    (look,) = desk.only(second, "look")
    assert digest_of(look.look.picture) == lost.start.state.images[0].digest, "the other has come already"
    desk.looked(second, look.look)
    await asyncio.sleep(0)
    (again,) = desk.only(second, "start")
    assert again.start.state.viewer == lost.start.state.viewer
    assert again.start.state.sequence != lost.start.state.sequence
    assert len(desk.only(reader, "start")) == 1, "the prompt itself goes on"


async def test_a_forgotten_picture_is_looked_at_again(desk: ImageDesk) -> None:
    encoder = desk.encoder("e")
    desk.reader("m")
    await desk.submit_looked_at(encoder, A)
    (start,) = desk.only(encoder, "start")
    desk.failed(encoder, start.start.state.sequence, message="the picture is not here any more")
    (look,) = desk.only(encoder, "look")
    desk.looked(encoder, look.look)
    await asyncio.sleep(0)
    assert desk.only(encoder, "start")


async def test_an_encode_worker_that_failed_is_avoided_while_there_is_another(desk: ImageDesk) -> None:
    first = desk.encoder("e")
    desk.reader("m")
    await desk.submit_looked_at(first, A)
    (start,) = desk.only(first, "start")
    second = desk.encoder("f")
    desk.handoff(first, start.start.state, pb.HANDOFF_FAILED)
    assert not desk.only(first, "look"), "though it has the picture"
    (look,) = desk.only(second, "look")
    desk.looked(second, look.look)
    await asyncio.sleep(0)
    assert desk.only(second, "start")


async def test_images_that_never_come_send_their_prompt_elsewhere(desk: ImageDesk) -> None:
    encoder, reader, other = desk.encoder("e"), desk.reader("m"), desk.reader("n")
    await desk.submit_looked_at(encoder, A)
    first = reader if desk.only(reader, "start") else other
    for _ in range(ATTEMPTS_MAX):
        (start,) = desk.only(encoder, "start")
        desk.handoff(encoder, start.start.state, pb.HANDOFF_FAILED)
        for look in desk.only(encoder, "look"):
            desk.looked(encoder, look.look)
        await asyncio.sleep(0)
    desk.dispatcher.tick()
    assert desk.only(first, "cancel")
    assert desk.only(other if first is reader else reader, "start")


async def test_a_reader_without_room_is_asked_again_and_given_up_in_the_end(desk: ImageDesk) -> None:
    encoder, reader = desk.encoder("e"), desk.reader("m")
    await desk.submit_looked_at(encoder, A)
    (start,) = desk.only(encoder, "start")
    for _ in range(REFUSALS_MAX - 1):
        desk.handoff(encoder, start.start.state, pb.HANDOFF_REFUSED)
        desk.dispatcher.tick()
        assert desk.told(encoder) == [], "not at once"
        desk.clock.advance(0.25)
        desk.beat(encoder)
        desk.beat(reader)
        desk.dispatcher.tick()
        (again,) = desk.told(encoder)
        assert again.retarget.target.kv_address == "m:2"
    desk.told(reader)
    desk.handoff(encoder, start.start.state, pb.HANDOFF_REFUSED)
    assert [message.cancel.sequence for message in desk.only(encoder, "cancel")] == [start.start.state.sequence]
    assert desk.only(reader, "cancel")


async def test_nobody_encodes_for_a_client_that_is_gone(desk: ImageDesk) -> None:
    encoder = desk.encoder("e")
    desk.reader("m")
    request = await desk.submit_looked_at(encoder, A, B)
    sent = {message.start.state.sequence for message in desk.only(encoder, "start")}
    desk.dispatcher.release(request)
    assert {message.cancel.sequence for message in desk.only(encoder, "cancel")} == sent
    assert desk.is_empty()


async def test_the_first_token_ends_the_showing_of_images_that_were_not_needed(desk: ImageDesk) -> None:
    encoder, reader = desk.encoder("e"), desk.reader("m")
    await desk.submit_looked_at(encoder, A)
    (prompt,) = desk.only(reader, "start")
    (start,) = desk.only(encoder, "start")
    desk.tokens(reader, prompt.start.state.sequence, [9])
    assert [message.cancel.sequence for message in desk.only(encoder, "cancel")] == [start.start.state.sequence]


async def test_strange_sequences_on_an_encode_worker_are_told_to_stop_and_lost_ones_redone(desk: ImageDesk) -> None:
    encoder = desk.encoder("e")
    desk.reader("m")
    await desk.submit_looked_at(encoder, A)
    (start,) = desk.only(encoder, "start")
    roll = pb.Roll(sequence=[start.start.state.sequence, 12345], epoch=[0, 0], heard=encoder.link.sent)

    def beat(roll: pb.Roll) -> None:
        heartbeat = pb.Heartbeat(lifecycle=Lifecycle.READY.value, roll=roll)
        desk.dispatcher.on_message(encoder, pb.WorkerMessage(heartbeat=heartbeat))

    beat(roll)
    assert [message.cancel.sequence for message in desk.only(encoder, "cancel")] == [12345]
    for _ in range(3):
        beat(pb.Roll(heard=encoder.link.sent))
    assert desk.only(encoder, "look"), "two rolls have missed it"


async def test_a_picture_that_cannot_be_shown_is_the_clients_mistake(desk: ImageDesk) -> None:
    encoder = desk.encoder("e")
    desk.reader("m")
    asking = asyncio.ensure_future(desk.submit_pictures(A))
    await asyncio.sleep(0)
    (look,) = desk.only(encoder, "look")
    message = "p[0]: is animated; send a still image"
    desk.failed(encoder, look.look.sequence, InvalidRequestError.code.value, field="p[0]", message=message)
    with pytest.raises(InvalidRequestError, match=r"^p\[0\]: is animated; send a still image$"):
        await asking
    assert desk.told(encoder) == [], "nobody else is asked"


async def test_looks_end_whatever_encode_workers_do(desk: ImageDesk) -> None:
    encoders = [desk.encoder(f"e{number}") for number in range(LOOKS_MAX + 2)]
    desk.reader("m")
    asking = asyncio.ensure_future(desk.submit_pictures(A))
    await asyncio.sleep(0)
    asked = 0
    for _ in range(LOOKS_MAX):
        (holder,) = [encoder for encoder in encoders if desk.only(encoder, "look")]
        asked += 1
        desk.clock.advance(LOOK_S_MAX + 1)
        for member in desk.dispatcher.fleet:
            desk.beat(member)
        desk.dispatcher.tick()
        del holder
    with pytest.raises(NoWorkerError, match=f"{asked} encode workers could not look at it"):
        await asking


async def test_one_look_serves_all_who_ask_for_a_picture_at_once(desk: ImageDesk) -> None:
    encoder = desk.encoder("e")
    desk.reader("m")
    asking = [asyncio.ensure_future(desk.submit_pictures(A, request=f"r{number}")) for number in range(3)]
    await asyncio.sleep(0)
    (look,) = desk.only(encoder, "look")
    asking[0].cancel()  # who asked first may go: the others still get their answer
    desk.looked(encoder, look.look)
    await asyncio.gather(*asking[1:])
    assert len(desk.only(encoder, "start")) == 2


async def test_prompts_with_images_go_to_workers_that_read_them_and_never_to_encode_workers(desk: ImageDesk) -> None:
    encoder, blind = desk.encoder("e"), desk.join("blind")
    reader = desk.reader("m")
    for number in range(6):
        await desk.submit_looked_at(encoder, bytes([number]), request=f"r{number}")
    assert desk.only(blind, "start") == []
    assert len(desk.only(reader, "start")) == 6
    assert all(start.start.HasField("target") for start in desk.only(encoder, "start"))


async def test_embeddings_of_another_checkpoint_are_refused_at_the_door(desk: ImageDesk) -> None:
    desk.encoder("e")
    reader = desk.reader("m")
    with pytest.raises(IncompatiblePeerError, match="image_fingerprint"):
        desk.dispatcher.join(
            dataclasses.replace(reader.info, worker=WorkerId("n"), image_fingerprint="other"), reader.link
        )


async def test_without_a_ready_encode_worker_pictures_are_refused(desk: ImageDesk) -> None:
    desk.reader("m")
    with pytest.raises(NoWorkerError, match="no encode worker is ready"):
        await desk.submit_pictures(A)
    desk.beat(desk.encoder("e"), Lifecycle.DRAINING)
    with pytest.raises(NoWorkerError, match="no encode worker is ready"):
        await desk.submit_pictures(A)


async def test_an_encode_worker_alone_makes_no_router_ready(desk: ImageDesk) -> None:
    desk.encoder("e")
    assert desk.dispatcher.fleet.why_not_serving()
    assert desk.dispatcher.fleet.fingerprint is None
    desk.reader("m", Role.MIXED)
    assert not desk.dispatcher.fleet.why_not_serving()


# ---------------------------------------------------------------- pictures that are cut into tiles


async def test_the_parts_of_one_picture_are_spread_over_encode_workers(desk: ImageDesk) -> None:
    """Whoever looks first says that there are four; the others look for themselves, and each makes a share."""
    encoders = [desk.encoder(f"e{number}") for number in range(4)]
    desk.reader("m")
    asking = asyncio.ensure_future(desk.submit_pictures(TILED))
    await asyncio.sleep(0)
    looks = {member: [message.look for message in desk.only(member, "look")] for member in encoders}
    (first,) = [member for member in encoders if looks[member]]
    desk.looked(first, looks[first][0])
    shares = {member: [message.look for message in desk.only(member, "look")] for member in encoders}
    assert shares.pop(first) == []
    assert sorted(look.part for share in shares.values() for look in share) == [1, 2, 3]
    assert [len(share) for share in shares.values()] == [1, 1, 1]
    request = await asking
    desk.dispatcher.release(request)


async def test_one_encode_worker_makes_all_parts_of_a_picture_that_it_has_looked_at(desk: ImageDesk) -> None:
    encoder = desk.encoder("e")
    desk.reader("m")
    asking = asyncio.ensure_future(desk.submit_pictures(TILED))
    await asyncio.sleep(0)
    (look,) = desk.only(encoder, "look")
    desk.looked(encoder, look.look)
    begun = [message.start for message in desk.only(encoder, "start")]
    assert [start.state.images[0].columns for start in begun] == [24, 24, 6]
    assert not any(start.HasField("target") for start in begun), "for whoever asks next"
    await asking
    shown = [message.start.state for message in desk.only(encoder, "start")]
    assert [state.images[0].columns for state in shown] == [24, 24, 24, 6]
    assert len({state.images[0].digest for state in shown}) == 4
    for state in shown:
        desk.handoff(encoder, state, pb.HANDOFF_COMMITTED, moved_bytes=10)
    (record,) = desk.dispatcher.records.latest(request=None, limit=1)
    assert (record.images, record.images_bytes, [row.image for row in record.shown]) == (1, 40, [0, 0, 0, 0])


async def test_a_dead_encode_workers_parts_of_a_picture_are_made_elsewhere(desk: ImageDesk) -> None:
    """The rest of the picture stays where it is, and every part comes to the prompt once."""
    first, second = desk.encoder("e"), desk.encoder("f")
    reader = desk.reader("m")
    asking = asyncio.ensure_future(desk.submit_pictures(TILED))
    await asyncio.sleep(0)
    for member in (first, second):
        (look,) = desk.only(member, "look")
        desk.looked(member, look.look)
    await asking
    stays = shown_by(desk, first)
    assert 0 < len(stays) < 4
    desk.dispatcher.lose(second, "killed")
    looks = desk.told(first)
    assert len(looks) == 4 - len(stays)
    for message in looks:
        desk.looked(first, message.look)
    await asyncio.sleep(0)
    again = shown_by(desk, first)
    assert len(set(stays) | set(again)) == len(stays) + len(again) == 4
    assert len(desk.only(reader, "start")) == 1, "the prompt itself goes on"


def shown_by(desk: ImageDesk, member: Member) -> list[bytes]:
    """The images that an encode worker was told to send to a prompt, since last asked."""
    starts = [message.start for message in desk.only(member, "start")]
    return [start.state.images[0].digest for start in starts if start.HasField("target")]


async def test_parts_that_no_encode_worker_has_any_more_are_shared_again_without_a_look_first(desk: ImageDesk) -> None:
    """The layout is known: all parts begin at once, wherever they can."""
    encoder = desk.encoder("e")
    desk.reader("m")
    await desk.submit_looked_at(encoder, TILED)
    desk.dispatcher.lose(encoder, "killed")
    encoders = [desk.encoder(f"n{number}") for number in range(4)]
    asking = asyncio.ensure_future(desk.submit_pictures(TILED, request="again"))
    await asyncio.sleep(0)
    asked = {member.name: [message.look.part for message in desk.only(member, "look")] for member in encoders}
    assert sorted(part for parts in asked.values() for part in parts) == [0, 1, 2, 3]
    await asking
