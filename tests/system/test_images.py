"""Prompts with pictures over the whole road: router, encode workers, prefill, handoff, decode."""

from pathlib import Path

import pytest
from in_process import Platform, WorkerPlan, start
from vision_platform import NEW_TOKENS, Oracle, Shown, make_vision_model, picture_file, shown

from sluice.engine.vision.random_vision_models import CONFIGS
from sluice.wire import channels
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

EPD = [
    WorkerPlan(name="e", role="encode"),
    WorkerPlan(name="p", role="prefill"),
    WorkerPlan(name="d", role="decode"),
]


async def ask(platform: Platform, prompt: Shown, *, new_tokens: int = NEW_TOKENS) -> list[int]:
    """The tokens of a greedy answer, over gRPC."""
    request = pb.GenerateRequest(
        model="tiny",
        prompt_tokens=pb.TokenIds(ids=prompt.ids),
        sampling=pb.SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True),
        pictures=[pb.Picture(data=data) for data in prompt.files],
    )
    async with channels.connect(f"127.0.0.1:{platform.router.grpc_port}") as channel:
        events = [event async for event in rpc.InferenceStub(channel).Generate(request, timeout=60)]
    return [token for event in events for token in event.tokens]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vision_model(tmp_path_factory.mktemp(request.param), request.param)


async def test_one_picture_is_answered_as_generate_answers_it(family: Path) -> None:
    prompt = shown(1, [picture_file(1)])
    async with start(EPD, family) as platform:
        assert await ask(platform, prompt) == Oracle(family).answer(prompt)
        await platform.wait_quiet()
