"""A picture that a request only names is held by its encode worker for as long as somebody needs it."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from sluice.domain.block_hash import extend_chain, root_hash
from sluice.domain.ids import RequestId
from sluice.domain.image import embedding_root, embedding_tokens
from sluice.domain.role import Lifecycle
from sluice.domain.sampling import SamplingParams
from sluice.errors import InvalidRequestError
from sluice.router.encode_desk import SMALL_SIDE, name_of
from sluice.router.fleet import Member
from sluice.router.gallery import Gallery
from sluice.router.job import Job, Picture
from sluice.router.keeps import HELD_SHARE
from sluice.router.output import Delivery
from sluice.router.picture_reader import PictureFile, PictureReader
from sluice.router.picture_source import Detail, PictureFormat, RawPicture, RememberedPicture
from sluice.testing.dispatch_desk import ROOT
from sluice.testing.image_desk import IMAGE_TOKENS, ImageDesk, digest_of, prompt_of
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.text import tokenizer as tokenizer_file
from sluice.wire.gen import sluice_pb2 as pb

A = b"picture a"


class FilesAsSent:
    """Reads pictures that are bytes already."""

    async def read(self, sources: Sequence[RawPicture]) -> tuple[PictureFile, ...]:
        return tuple(
            PictureFile(field=one.field, detail=one.detail, format=PictureFormat.PNG, data=one.data) for one in sources
        )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_directory(Path(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def desk(model: Path) -> ImageDesk:
    desk = ImageDesk(tokenizer_file.load(model))
    encoder = desk.encoder("e")
    desk.reader("m")
    for number in range(9):
        request = await desk.submit_looked_at(encoder, bytes([number]) if number else A, request=f"r{number}")
        desk.dispatcher.release(request)
        cache(desk, encoder, bytes([number]) if number else A)
    desk.told(encoder)
    return desk


def cache(desk: ImageDesk, encoder: Member, data: bytes) -> None:
    hashes = extend_chain(embedding_root(ROOT), embedding_tokens(digest_of(data), IMAGE_TOKENS))
    desk.dispatcher.on_message(encoder, pb.WorkerMessage(prefix=pb.PrefixUpdate(stored=b"".join(hashes))))


def encoder_of(desk: ImageDesk) -> Member:
    return next(desk.dispatcher.fleet.encoders)


def recall(desk: ImageDesk, data: bytes, held: contextlib.ExitStack) -> Picture:
    picture = desk.dispatcher.desk.recall(name_of(data), field="pictures[0]", root=ROOT, held=held)
    assert picture is not None
    return picture


def submit(desk: ImageDesk, picture: Picture) -> None:
    job = Job(
        request=RequestId("named"), prompts=(prompt_of((picture,)),), n=1, sampling=SamplingParams(max_tokens=9),
        stops=(), timeout_s=60.0,
    )  # fmt: skip
    desk.dispatcher.submit(job, Delivery.EACH_STEP)


async def test_a_named_picture_is_held_until_nobody_needs_it(desk: ImageDesk) -> None:
    encoder = encoder_of(desk)
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    for held in (first, second):
        recall(desk, A, held)
    (start,) = desk.only(encoder, "start")
    assert start.start.HasField("target"), "it is held when it is computed"
    assert not start.start.target.worker, "for nobody yet"
    kept = start.start.state.sequence
    assert desk.dispatcher.desk.owns(kept)
    for held in (first, second):
        desk.dispatcher.tick()
        assert desk.only(encoder, "cancel") == [], "somebody needs it"
        held.close()
    desk.dispatcher.tick()
    assert [message.cancel.sequence for message in desk.only(encoder, "cancel")] == [kept]
    assert not desk.dispatcher.desk.owns(kept)


async def test_a_draining_encode_worker_is_not_kept_from_its_end(desk: ImageDesk) -> None:
    encoder = encoder_of(desk)
    recall(desk, A, contextlib.ExitStack())
    (start,) = desk.only(encoder, "start")
    desk.beat(encoder, Lifecycle.DRAINING)
    desk.dispatcher.tick()
    assert [message.cancel.sequence for message in desk.only(encoder, "cancel")] == [start.start.state.sequence]


async def test_a_worker_that_gave_it_up_is_asked_again_by_whoever_comes_next(desk: ImageDesk) -> None:
    encoder = encoder_of(desk)
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    recall(desk, A, first)
    (start,) = desk.only(encoder, "start")
    desk.failed(encoder, start.start.state.sequence)
    recall(desk, A, second)
    (again,) = desk.only(encoder, "start")
    first.close()
    desk.dispatcher.tick()
    assert desk.only(encoder, "cancel") == [], "who let go was of an earlier hold"
    assert desk.dispatcher.desk.owns(again.start.state.sequence)


async def test_only_a_part_of_a_workers_batch_is_held(desk: ImageDesk) -> None:
    encoder = encoder_of(desk)
    for number in range(1, 9):
        recall(desk, bytes([number]), contextlib.ExitStack())
    assert len(desk.only(encoder, "start")) == encoder.info.batch_sequences_max // HELD_SHARE


async def test_a_small_encode_worker_holds_nothing_that_others_would_wait_for(desk: ImageDesk) -> None:
    encoder = encoder_of(desk)
    encoder.info = dataclasses.replace(encoder.info, blocks=3)
    recall(desk, A, contextlib.ExitStack())
    assert desk.only(encoder, "start") == []


async def test_a_named_picture_that_another_request_has_at_hand_is_taken_from_there(desk: ImageDesk) -> None:
    gallery = Gallery(
        cast("PictureReader", FilesAsSent()), desk.dispatcher.desk, desk.clock, held_bytes_max=1000
    )  # fmt: skip
    sender, namer = contextlib.ExitStack(), contextlib.ExitStack()
    asking = asyncio.ensure_future(
        gallery.pictures([RawPicture(field="p[0]", data=b"another")], root=ROOT, held=sender)
    )
    await asyncio.sleep(0)
    encoder = encoder_of(desk)
    for message in desk.only(encoder, "look"):
        desk.looked(encoder, message.look)
    (sent,), _ = await asking
    named = RememberedPicture(field="p[1]", name=name_of(b"another"))
    (again,), _ = await gallery.pictures([named], root=ROOT, held=namer)
    assert (again.data, again.field, again.layout) == (b"another", "p[1]", sent.layout)
    stranger = root_hash(model_fingerprint="f", salt="another tenant")
    with pytest.raises(InvalidRequestError, match="send the bytes of its file"):
        await gallery.pictures([named], root=stranger, held=contextlib.ExitStack())
    sender.close()
    (again,), _ = await gallery.pictures([named], root=ROOT, held=namer)
    assert again.data == b"another", "who named it has it at hand too"
    assert gallery.held_bytes == 2 * len(b"another")
    namer.close()
    assert gallery.held_bytes == 0
    with pytest.raises(InvalidRequestError, match="send the bytes of its file"):
        await gallery.pictures([named], root=ROOT, held=namer)


async def test_a_picture_asked_for_in_little_detail_is_looked_at_small_and_remembered_apart(desk: ImageDesk) -> None:
    gallery = Gallery(cast("PictureReader", FilesAsSent()), desk.dispatcher.desk, desk.clock, held_bytes_max=1000)
    encoder = encoder_of(desk)
    sides = []
    for detail in (Detail.LOW, Detail.HIGH, Detail.AUTO):
        source = RawPicture(field="p[0]", data=b"large", detail=detail)
        asking = asyncio.ensure_future(gallery.pictures([source], root=ROOT, held=contextlib.ExitStack()))
        await asyncio.sleep(0)
        for message in desk.only(encoder, "look"):
            sides.append(message.look.side_max)
            desk.looked(encoder, message.look)
        await asking
    assert sides == [SMALL_SIDE, 0], "high and auto are the same picture"


async def test_a_named_picture_that_is_nowhere_any_more_ends_its_request_with_the_remedy(desk: ImageDesk) -> None:
    encoder = encoder_of(desk)
    picture = recall(desk, A, contextlib.ExitStack())
    desk.told(encoder)
    submit(desk, picture)
    (start,) = desk.only(encoder, "start")
    desk.failed(encoder, start.start.state.sequence, message="the picture is not here any more")
    (flow_error,) = [record.finish_reason for record in desk.dispatcher.records.latest(request=None, limit=1)]
    assert flow_error == InvalidRequestError.code.value
    assert desk.only(encoder, "look") == [], "there is nothing to look at"
    assert desk.is_empty()
