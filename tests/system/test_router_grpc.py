"""The gRPC front answers as the HTTP one does, and honours deadlines and cancellation."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from sluice.domain.role import Role
from sluice.testing.fake_fleet import FakeFleet, running_fleet
from sluice.testing.fake_worker import FakeSettings, FakeWorker
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.wire import channels, convert
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc

LONG = "A river finds the sea by many small decisions, and every lock keeper keeps an honest book. " * 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def fleet(model: Path) -> AsyncIterator[FakeFleet]:
    async with running_fleet(model, roles=(Role.PREFILL, Role.DECODE)) as running:
        yield running
        await running.wait_until(lambda: running.is_idle)


@pytest.fixture
async def channel(fleet: FakeFleet) -> AsyncIterator[grpc.aio.Channel]:
    async with channels.connect(fleet.grpc_address) as connected:
        yield connected


def request(**fields: object) -> pb.GenerateRequest:
    sampling = pb.SamplingParams(max_tokens=30, temperature=0.0)
    return pb.GenerateRequest(**{"model": "fake", "prompt": LONG, "sampling": sampling, **fields})


async def test_text_tokens_and_usage_are_streamed(channel: grpc.aio.Channel) -> None:
    stub = sluice_pb2_grpc.InferenceStub(channel)
    events = [event async for event in stub.Generate(request(n=2, request_id="mine"))]
    for choice in range(2):
        mine = [event for event in events if event.choice == choice]
        assert LONG.startswith("".join(event.text for event in mine))
        indexes = [event.first_index + i for event in mine for i in range(len(event.tokens))]
        assert indexes == list(range(30))
        assert mine[-1].finish_reason == "length"
    assert {event.request_id for event in events} == {"mine"}
    assert [event.HasField("usage") for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1].usage.completion_tokens == 60


async def test_chat_and_token_prompts_are_taken(channel: grpc.aio.Channel) -> None:
    stub = sluice_pb2_grpc.InferenceStub(channel)
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="The quick fox")])
    for given in ({"chat": chat}, {"prompt_tokens": pb.TokenIds(ids=[300, 301])}):
        message = pb.GenerateRequest(model="fake", sampling=pb.SamplingParams(max_tokens=4), **given)
        events = [event async for event in stub.Generate(message)]
        assert sum(len(event.tokens) for event in events) == 4
    assert list((await stub.ListModels(pb.ListModelsRequest())).models) == ["fake"]


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"model": "other"}, grpc.StatusCode.NOT_FOUND, "use one of: fake"),
        ({"prompt": None}, grpc.StatusCode.INVALID_ARGUMENT, "set one of prompt"),
        ({"n": 99}, grpc.StatusCode.INVALID_ARGUMENT, "from 1 to 16"),
        ({"sampling": pb.SamplingParams(temperature=float("nan"))}, grpc.StatusCode.INVALID_ARGUMENT, "temperature"),
        ({"request_id": "x" * 200}, grpc.StatusCode.INVALID_ARGUMENT, "request_id"),
    ],
    ids=["model", "input", "n", "temperature", "request_id"],
)
async def test_bad_requests_have_a_status_and_a_remedy(
    channel: grpc.aio.Channel, fields: dict[str, object], status: grpc.StatusCode, says: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in sluice_pb2_grpc.InferenceStub(channel).Generate(request(**fields)):
            pass
    assert caught.value.code() is status
    assert says in (caught.value.details() or "")


async def test_the_calls_deadline_is_the_requests(fleet: FakeFleet, channel: grpc.aio.Channel) -> None:
    for fake in fleet.workers.values():
        fake.is_frozen = True
    call = sluice_pb2_grpc.InferenceStub(channel).Generate(request(), timeout=0.1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await fleet.wait_until(lambda: all(fake.cancelled for fake in fleet.workers.values()))


async def test_a_cancelled_call_frees_every_worker(fleet: FakeFleet, channel: grpc.aio.Channel) -> None:
    sampling = pb.SamplingParams(max_tokens=5000)
    call = sluice_pb2_grpc.InferenceStub(channel).Generate(request(sampling=sampling))
    await call.read()
    call.cancel()
    await fleet.wait_until(lambda: fleet.is_idle)
    assert any(fake.cancelled for fake in fleet.workers.values())


async def test_admin_shows_workers_and_who_did_what(fleet: FakeFleet, channel: grpc.aio.Channel) -> None:
    stub = sluice_pb2_grpc.InferenceStub(channel)
    async for _ in stub.Generate(request(request_id="first")):
        pass
    async for _ in stub.Generate(request(request_id="second", prompt="short")):
        pass
    admin = sluice_pb2_grpc.AdminStub(channel)
    workers = (await admin.GetWorkers(pb.GetWorkersRequest())).workers
    assert {row.info.worker for row in workers} == {"prefill-0", "decode-1"}
    assert {row.load.lifecycle for row in workers} == {"ready"}
    rows = (await admin.GetRequests(pb.GetRequestsRequest())).requests
    assert [row.request_id for row in rows] == ["second", "first"]
    (row,) = (await admin.GetRequests(pb.GetRequestsRequest(request_id="first"))).requests
    assert (row.prefill_worker, row.decode_worker, row.transport) == ("prefill-0", "decode-1", "fake")
    assert row.state == "finished"
    assert row.output_tokens == 30
    assert 0 < row.first_token_s < row.finished_s
    assert row.tpot_s > 0
    assert row.kv_bytes > 0
    assert "split" in row.decision


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"wire_version": 99}, "wire_version: is 99"),
        ({"role": "juggler"}, "role: is 'juggler'; use encode, prefill, decode, mixed"),
        ({"worker": ""}, "worker"),
        ({"block_tokens": 24}, "block_tokens: is 24"),
        ({"blocks": 0}, "blocks: is 0"),
        ({"model_fingerprint": "other"}, "model_fingerprint"),
    ],
    ids=["version", "role", "name", "block", "blocks", "fingerprint"],
)
async def test_a_worker_that_does_not_fit_is_told_why(
    channel: grpc.aio.Channel, change: dict[str, object], says: str
) -> None:
    register = convert.info_to_wire(FakeWorker(FakeSettings(worker="new")).info())
    for field, value in change.items():
        setattr(register, field, value)
    call = sluice_pb2_grpc.FleetStub(channel).Join()
    await call.write(pb.WorkerMessage(register=register))
    assert says in (await call.details())


async def test_a_worker_that_does_not_register_is_refused(channel: grpc.aio.Channel) -> None:
    call = sluice_pb2_grpc.FleetStub(channel).Join()
    await call.write(pb.WorkerMessage(goodbye=pb.Goodbye()))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "send Register first" in (await call.details())


async def test_a_worker_that_talks_nonsense_is_disconnected(fleet: FakeFleet) -> None:
    fake = await fleet.add(FakeSettings(worker="odd"))
    fake.say(pb.WorkerMessage(heartbeat=pb.Heartbeat(lifecycle="dancing")))
    await fleet.wait_until(lambda: len(fleet.router.dispatcher.fleet) == 2)
