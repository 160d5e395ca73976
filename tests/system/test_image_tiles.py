"""Pictures that are cut into tiles: their parts are made by several encode workers, and answers are generate()'s."""

import asyncio
import contextlib
import itertools
from pathlib import Path

import pytest
from in_process import Platform, SilentLink, WorkerPlan, start
from vision_platform import MANY_TILES, NEW_TOKENS, Oracle, Shown, make_vision_model, picture_file, shown

from sluice.domain.block_hash import root_hash
from sluice.router import looks
from sluice.router.encode_desk import name_of
from sluice.wire import channels
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

ENCODERS = ("e0", "e1", "e2", "e3")
PLANS = [
    *(WorkerPlan(name=name, role="encode") for name in ENCODERS),
    WorkerPlan(name="p", role="prefill"),
    WorkerPlan(name="d", role="decode"),
]
TILES = 17  # of every picture here


class DeafLink(SilentLink):
    """What a worker hears that is dead, and whose router does not know it yet."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[pb.Look] = []

    def send(self, message: pb.RouterMessage) -> None:
        if message.HasField("look"):
            self.looks.append(message.look)


@pytest.fixture(scope="module", params=["smolvlm", "idefics3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vision_model(tmp_path_factory.mktemp(request.param), request.param, processor=MANY_TILES)


@pytest.fixture(autouse=True)
def slow_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routers believe that towers are slow, and so share every picture: these are fast, and sharing would not pay."""
    monkeypatch.setattr(looks, "TOKEN_S_MIN", 0.01)


def prompts(*counts: int) -> list[Shown]:
    numbers = itertools.count()
    return [
        shown(count, [picture_file(next(numbers), sides=(190, 224)) for _ in range(count)], text_tokens=20)
        for count in counts
    ]


async def ask(platform: Platform, prompt: Shown) -> list[int]:
    """The tokens of a greedy answer."""
    request = pb.GenerateRequest(
        model="tiny",
        prompt_tokens=pb.TokenIds(ids=prompt.ids),
        sampling=pb.SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True),
        pictures=[pb.Picture(data=data) for data in prompt.files],
    )
    async with channels.connect(f"127.0.0.1:{platform.router.grpc_port}") as channel:
        events = [event async for event in rpc.InferenceStub(channel).Generate(request, timeout=60)]
    return [token for event in events for token in event.tokens]


async def wait_cached(platform: Platform, prompt: Shown) -> None:
    """Until the router has heard that encode workers have all its pictures."""
    dispatcher = platform.router.dispatcher
    assert dispatcher.fleet.fingerprint is not None
    root = root_hash(model_fingerprint=dispatcher.fleet.fingerprint, salt="")
    async with asyncio.timeout(20):
        for data in prompt.files:
            with contextlib.ExitStack() as held:
                while dispatcher.desk.recall(name_of(data), field="p", root=root, held=held) is None:
                    await asyncio.sleep(0.02)
    await platform.wait_quiet()


async def test_one_picture_is_made_by_several_encode_workers_and_read_in_order(model: Path) -> None:
    oracle = Oracle(model)
    async with start(PLANS, model) as platform:
        for prompt in prompts(1, 2, 8):
            assert await ask(platform, prompt) == oracle.answer(prompt)
            (row,) = platform.records()[:1]
            assert len(prompt.files) == row.images
            assert not row.images_cached
            makers = [{part.encoder for part in row.shown if part.image == image} for image in range(row.images)]
            assert set.union(*makers) == set(ENCODERS)
            if row.images < len(ENCODERS):  # with more, all are busy with pictures that they have looked at
                assert all(len(of_one) > 1 for of_one in makers), "every picture is shared"
            await platform.wait_quiet()
            await wait_cached(platform, prompt)
            assert await ask(platform, prompt) == oracle.answer(prompt)
            (row,) = platform.records()[:1]
            assert row.images_cached >= row.images, "nothing is made twice, though a busy machine may show it twice"
            assert all(part.known for part in row.shown)
            await platform.wait_quiet()


async def test_a_dead_encode_workers_parts_of_a_picture_are_made_by_the_others(model: Path) -> None:
    (prompt,) = prompts(3)
    async with start(PLANS, model) as platform:
        (dead,) = [member for member in platform.router.dispatcher.fleet if member.name == "e2"]
        link = dead.link = DeafLink()
        asking = asyncio.create_task(ask(platform, prompt))
        async with asyncio.timeout(20):
            while not link.looks:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0)
        assert not asking.done()
        platform.router.dispatcher.lose(dead, "killed")
        assert await asking == Oracle(model).answer(prompt)
        (row,) = platform.records()[:1]
        assert {part.encoder for part in row.shown} <= set(ENCODERS) - {"e2"}
        assert sum(part.tokens for part in row.shown) == 3 * TILES * 4
        await platform.wait_quiet()
