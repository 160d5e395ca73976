"""Prompts with pictures over the whole road: router, encode workers, prefill, handoff, decode."""

import asyncio
import base64
import contextlib
import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from in_process import Platform, WorkerPlan, start
from vision_platform import NEW_TOKENS, Oracle, Shown, make_vision_model, picture_file, shown

from sluice.domain.block_hash import extend_chain, root_hash
from sluice.domain.image import embedding_root, embedding_tokens
from sluice.engine.vision.random_vision_models import CONFIGS
from sluice.router.encode_desk import name_of
from sluice.telemetry import tracing
from sluice.wire import channels
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

EPD = [
    WorkerPlan(name="e", role="encode"),
    WorkerPlan(name="p", role="prefill"),
    WorkerPlan(name="d", role="decode"),
]
IMAGES_OF_PROMPTS = (0, 1, 2, 3, 5, 8)


async def ask(
    platform: Platform, prompt: Shown, *, new_tokens: int = NEW_TOKENS, tenant: str = "", request_id: str = ""
) -> list[int]:
    """The tokens of a greedy answer, over gRPC."""
    request = pb.GenerateRequest(
        request_id=request_id,
        model="tiny",
        prompt_tokens=pb.TokenIds(ids=prompt.ids),
        sampling=pb.SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True),
        tenant=tenant,
        pictures=[pb.Picture(data=data) for data in prompt.files],
    )
    return await answer(platform, request)


async def answer(platform: Platform, request: pb.GenerateRequest) -> list[int]:
    """What the router streams for it."""
    async with channels.connect(f"127.0.0.1:{platform.router.grpc_port}") as channel:
        events = [event async for event in rpc.InferenceStub(channel).Generate(request, timeout=60)]
    return [token for event in events for token in event.tokens]


def prompts(family: str, counts: Sequence[int] = IMAGES_OF_PROMPTS) -> list[Shown]:
    """Prompts with so many pictures of a few, so that some appear in several prompts, or twice in one."""
    rng = random.Random(family)
    files = [picture_file(seed) for seed in range(9)]
    return [shown(seed, rng.choices(files, k=count)) for seed, count in enumerate(counts)]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vision_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vision_model(tmp_path_factory.mktemp("qwen"), "qwen2_5_vl")


async def test_prompts_with_pictures_are_answered_as_generate_answers_them(family: Path) -> None:
    asked = prompts(family.name)
    oracle = Oracle(family)
    expected = [oracle.answer(prompt) for prompt in asked]
    plans = [*EPD, WorkerPlan(name="e2", role="encode")]
    async with start(plans, family) as platform:
        assert list(await asyncio.gather(*(ask(platform, prompt) for prompt in asked))) == expected
        await platform.wait_quiet()
        again = [await ask(platform, prompt) for prompt in reversed(asked)]  # one at a time, embeddings cached
        assert again == expected[::-1]
        await platform.wait_quiet()
        rows = platform.records()
        assert any(row.decode_worker != row.prefill_worker for row in rows), "some were handed off"
        assert {name for row in rows for name in row.encoders} == {"e", "e2"}, "pictures are spread over encode workers"
        assert all(row.images_cached == row.images for row in rows[: len(asked)]), "nothing is encoded twice"


async def test_a_prompt_moves_while_it_decodes_and_is_computed_again_with_its_pictures(qwen: Path) -> None:
    prompt = prompts("moving", [3])[0]
    expected = Oracle(qwen).answer(prompt, new_tokens=200)
    plans = [*EPD, WorkerPlan(name="d2", role="decode"), WorkerPlan(name="p2", role="prefill")]
    async with start(plans, qwen) as platform:
        for recompute in (False, True):
            asking = asyncio.create_task(ask(platform, prompt, new_tokens=200, request_id=f"r{recompute}"))
            async with asyncio.timeout(30):
                while not any(row.output_tokens > 5 and row.state == "decode" for row in platform.records()):
                    await asyncio.sleep(0.005)
            async with channels.connect(f"127.0.0.1:{platform.router.grpc_port}") as channel:
                move = pb.MigrateRequest(request_id=f"r{recompute}", recompute=recompute)
                await rpc.AdminStub(channel).Migrate(move)
            assert await asking == expected
            row = platform.records()[0]
            assert [step.how for step in row.moves] == ["recomputed" if recompute else "migrated"]
            await platform.wait_quiet()


async def test_a_drained_encode_worker_leaves_its_pictures_to_others(qwen: Path) -> None:
    asked = prompts("drained", [8, 8, 2])
    oracle = Oracle(qwen)
    async with start([*EPD, WorkerPlan(name="e2", role="encode")], qwen) as platform:
        asking = [asyncio.create_task(ask(platform, prompt)) for prompt in asked[:2]]
        drained = [event async for event in platform.drain("e", deadline_s=20)]
        assert drained[-1].lifecycle == "drained"
        assert [await one for one in asking] == [oracle.answer(prompt) for prompt in asked[:2]]
        assert await ask(platform, asked[2]) == oracle.answer(asked[2])
        assert platform.records()[0].encoders == ["e2"]


async def test_an_abandoned_request_leaves_nothing_in_the_embedding_store(qwen: Path) -> None:
    asked = prompts("abandoned", [8, 5, 8, 3])
    async with start([*EPD, WorkerPlan(name="e2", role="encode")], qwen) as platform:
        for pause_s in (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08):
            asking = [asyncio.create_task(ask(platform, prompt, new_tokens=300)) for prompt in asked]
            await asyncio.sleep(pause_s)
            for one in asking:
                one.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        await platform.wait_quiet()
        for built in platform.built.values():
            if built.embeddings is not None:
                built.embeddings.store.check_integrity()
        assert await ask(platform, asked[1]) == Oracle(qwen).answer(asked[1])


async def test_tenants_share_no_embeddings(qwen: Path) -> None:
    prompt = prompts("tenants", [2])[0]
    async with start(EPD, qwen) as platform:
        expected = Oracle(qwen).answer(prompt)
        for tenant, cached in (("a", 0), ("a", 1), ("b", 0), ("a", 1)):
            assert await ask(platform, prompt, tenant=tenant) == expected
            row = platform.records()[0]
            assert row.images_cached == row.images * cached, f"tenant {tenant}"
            await asyncio.sleep(0.3)  # what is cached is told with the next heartbeat


async def test_a_picture_sent_before_may_be_named_instead_of_sent(qwen: Path) -> None:
    prompt = prompts("named", [2])[0]
    names = [name_of(data) for data in prompt.files]
    request = pb.GenerateRequest(
        model="tiny",
        prompt_tokens=pb.TokenIds(ids=prompt.ids),
        sampling=pb.SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True),
        pictures=[pb.Picture(reference=name) for name in names],
    )
    async with start(EPD, qwen) as platform:
        with pytest.raises(grpc.aio.AioRpcError, match="names a picture that no encode worker has"):
            await answer(platform, request)
        expected = await ask(platform, prompt)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    assert await answer(platform, request) == expected
                    return
                await asyncio.sleep(0.05)


async def test_pictures_come_in_chat_messages_and_bad_ones_are_refused_by_name(qwen: Path) -> None:
    url = f"data:image/png;base64,{base64.b64encode(picture_file(3)).decode()}"
    broken = f"data:image/png;base64,{base64.b64encode(picture_file(3)[:300]).decode()}"

    def parts(*urls: str) -> list[dict[str, object]]:
        return [{"type": "text", "text": "what"}, *({"type": "image_url", "image_url": {"url": one}} for one in urls)]

    async with start(EPD, qwen) as platform:
        messages = [{"role": "user", "content": parts(url, url)}]
        reply = await platform.client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)  # type: ignore[arg-type]
        assert reply.choices
        assert reply.usage is not None
        assert reply.usage.prompt_tokens > 10
        messages = [{"role": "user", "content": parts(url, broken)}]
        with pytest.raises(Exception, match=r"messages\[0\].content\[2\].image_url.url: is not an image"):
            await platform.client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)  # type: ignore[arg-type]
        await platform.wait_quiet()


async def test_without_an_encode_worker_pictures_are_refused_and_text_is_served(qwen: Path) -> None:
    async with start(EPD[1:], qwen) as platform:
        with pytest.raises(grpc.aio.AioRpcError, match="no encode worker is ready"):
            await ask(platform, prompts("none", [1])[0])
        text = shown(5, [])
        assert await ask(platform, text) == Oracle(qwen).answer(text)


async def test_prompt_and_pictures_must_match(qwen: Path) -> None:
    prompt = prompts("match", [2])[0]
    async with start(EPD, qwen) as platform:
        with pytest.raises(grpc.aio.AioRpcError, match="has 2 places for 1 pictures"):
            await ask(platform, Shown(prompt.ids, prompt.files[:1]))
        with pytest.raises(grpc.aio.AioRpcError, match="has 0 places for 2 pictures"):
            await ask(platform, Shown((5, 6, 7), prompt.files))


async def test_a_named_picture_is_not_forgotten_while_a_request_needs_it(qwen: Path) -> None:
    prompt = prompts("kept", [1])[0]
    request = pb.GenerateRequest(
        model="tiny",
        prompt_tokens=pb.TokenIds(ids=prompt.ids),
        sampling=pb.SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True),
        pictures=[pb.Picture(reference=name_of(prompt.files[0]))],
    )
    small = [dataclasses.replace(plan, kv_memory_mib=1) if plan.name == "e" else plan for plan in EPD]
    async with start(small, qwen) as platform:
        fleet, desk = platform.router.dispatcher.fleet, platform.router.dispatcher.desk
        assert fleet.fingerprint is not None
        root = root_hash(model_fingerprint=fleet.fingerprint, salt="")

        async def flood(first: int) -> None:
            """More pictures than the encode worker has room for."""
            for seed in range(first, first + 288, 16):
                files = [picture_file(one, form="BMP", sides=(150, 160)) for one in range(seed, seed + 16)]
                await desk.pictures([("p", data) for data in files], root=root)

        expected, held = await ask(platform, prompt), contextlib.ExitStack()
        async with asyncio.timeout(30):
            while (needed := desk.recall(name_of(prompt.files[0]), field="pictures[0]", root=root, held=held)) is None:
                await asyncio.sleep(0.02)  # what is cached is told with the next heartbeat
        await flood(1000)
        assert await answer(platform, request) == expected
        own = embedding_tokens(needed.layout.digest, needed.layout.tokens)
        hashes = extend_chain(embedding_root(root), own)
        held.close()
        await flood(2000)
        async with asyncio.timeout(30):
            while fleet.index.match(hashes).get(next(fleet.encoders).slot):
                await asyncio.sleep(0.02)
        with pytest.raises(grpc.aio.AioRpcError, match="names a picture that no encode worker has"):
            await answer(platform, request)
        await platform.wait_quiet()


@pytest.mark.parametrize(
    ("of", "changes", "problem"),
    [
        ("p", {"image_tokens_max": 40}, "takes the prompt's pictures to .*embeddings_mib"),
        ("e", {"sequence_tokens_max": 1}, "pictures.0.: takes .* embeddings; .*engine.kv_memory_mib"),
    ],
)
async def test_pictures_that_fit_nowhere_are_refused_at_once_with_the_setting_that_would_help(
    qwen: Path, of: str, changes: dict[str, int], problem: str
) -> None:
    prompt = prompts("too many", [3])[0]
    async with start(EPD, qwen) as platform:
        for member in platform.router.dispatcher.fleet:
            if member.name == of or (of == "p" and member.info.image_boot is not None):
                member.info = dataclasses.replace(member.info, **changes)  # type: ignore[arg-type]
        with pytest.raises(grpc.aio.AioRpcError, match=problem):
            await ask(platform, prompt)
        await platform.wait_quiet()


async def test_pictures_of_all_requests_are_bounded_and_let_go_when_they_end(qwen: Path) -> None:
    prompt = prompts("held", [3])[0]
    async with start(EPD, qwen, held_bytes_max=sum(map(len, prompt.files))) as platform:
        assert await ask(platform, prompt) == Oracle(qwen).answer(prompt)
        await platform.wait_quiet()
        assert await ask(platform, prompt), "what a request held is free again"
        asking = [asyncio.create_task(ask(platform, prompt, new_tokens=100)) for _ in range(2)]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        refused = [one for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
        assert [one.code() for one in refused] == [grpc.StatusCode.RESOURCE_EXHAUSTED]


async def test_a_request_with_pictures_outlives_its_router(qwen: Path) -> None:
    prompt = prompts("outlives", [3])[0]
    expected = Oracle(qwen).answer(prompt, new_tokens=150)
    request = pb.GenerateRequest(
        request_id="kept",
        model="tiny",
        prompt_tokens=pb.TokenIds(ids=prompt.ids),
        sampling=pb.SamplingParams(max_tokens=150, temperature=0.0, ignore_eos=True),
        pictures=[pb.Picture(data=data) for data in prompt.files],
    )
    async with start(EPD, qwen, routers=2) as platform:
        got: list[int] = []
        async with channels.connect(f"127.0.0.1:{platform.router.grpc_port}") as channel:
            stream = rpc.InferenceStub(channel).Generate(request, timeout=60)
            while len(got) < 8:
                event = await stream.read()
                assert isinstance(event, pb.GenerateEvent)
                got += event.tokens
            await platform.crash_router(0)
        request.resume.request_id = "kept"
        request.resume.next_index[0] = len(got)
        async with channels.connect(f"127.0.0.1:{platform.routers[1].grpc_port}") as channel:
            events = [event async for event in rpc.InferenceStub(channel).Generate(request, timeout=60)]
        assert got + [token for event in events for token in event.tokens] == expected
        await platform.wait_quiet()


async def test_several_outputs_of_one_prompt_each_get_its_pictures(qwen: Path) -> None:
    prompt = prompts("several", [4])[0]
    request = pb.GenerateRequest(
        model="tiny",
        prompt_tokens=pb.TokenIds(ids=prompt.ids),
        sampling=pb.SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True),
        pictures=[pb.Picture(data=data) for data in prompt.files],
        n=3,
    )
    expected = Oracle(qwen).answer(prompt)
    async with (
        start([*EPD, WorkerPlan(name="p2", role="prefill")], qwen) as platform,
        channels.connect(f"127.0.0.1:{platform.router.grpc_port}") as channel,
    ):
        events = [event async for event in rpc.InferenceStub(channel).Generate(request, timeout=60)]
        for choice in range(3):
            assert [token for event in events if event.choice == choice for token in event.tokens] == expected
        await platform.wait_quiet()


async def test_a_pictures_journey_is_on_the_requests_trace(qwen: Path, tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    tracing.configure(exporter=tracing.Exporter.FILE, service="sluice-test", endpoint_or_path=str(path))
    url = f"data:image/png;base64,{base64.b64encode(picture_file(4)).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}]
    async with start(EPD, qwen) as platform:
        await platform.client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": content}],  # type: ignore[list-item,misc]
            max_tokens=2,
            extra_headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"},
        )
        await platform.wait_quiet()
    tracing.shutdown()
    requests = [json.loads(line) for line in path.read_text().splitlines()]
    spans = [span for request in requests for span in request["resourceSpans"][0]["scopeSpans"][0]["spans"]]
    names = {span["spanId"]: span["name"] for span in spans}
    assert ("encode", "request") in {(span["name"], names.get(span["parentSpanId"])) for span in spans}
    assert ("transfer", "encode") in {(span["name"], names.get(span["parentSpanId"])) for span in spans}
    assert ("attach", "encode") in {(span["name"], names.get(span["parentSpanId"])) for span in spans}
