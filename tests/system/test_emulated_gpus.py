"""A heterogeneous platform on one machine: emulated GPUs behind the real router, protocols and transports."""

import asyncio
import time
from pathlib import Path

import aiohttp
import grpc
import pytest

from sluice.capacity.model_shape import shape_of
from sluice.cli import emulated_engine
from sluice.cli.fleet_options import DEMO_MODEL
from sluice.cli.gpu_pools import emulated_workers
from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.config.router import PlacementConfig
from sluice.config.worker import EngineConfig, GpuConfig, WorkerConfig
from sluice.domain.sampling import SamplingParams
from sluice.engine import emulated_model
from sluice.errors import ConfigError
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

pytestmark = pytest.mark.system

SHAPE = "Llama-3.1-8B"
PROMPTS = [[20 + (7 * at + seed) % 1000 for at in range(900)] for seed in range(4)]
OUTPUTS = 40


def expected(prompt: list[int]) -> list[int]:
    """What the emulated model says to `prompt`, greedily, by its rule alone."""
    _, rule = emulated_engine._facts(WorkerConfig(worker="w", model_path=str(DEMO_MODEL)), shape_of(SHAPE))
    sampling = SamplingParams(max_tokens=OUTPUTS, temperature=0.0, ignore_eos=True)
    tokens, marks = list(prompt), list[int]()
    for count in range(OUTPUTS):
        emulated_model.extend_marks(marks, tokens, end=len(tokens))
        tokens.append(emulated_model.next_token(marks[-1], 0, sampling=sampling, output_tokens=count, rule=rule))
    return tokens[len(prompt) :]


async def ask(stub: rpc.InferenceStub, prompt: list[int]) -> tuple[list[int], float]:
    """The answer's tokens, and seconds from the first to the last."""
    request = pb.GenerateRequest(
        model=SHAPE,
        prompt_tokens=pb.TokenIds(ids=prompt),
        sampling=pb.SamplingParams(max_tokens=OUTPUTS, temperature=0.0, ignore_eos=True),
    )
    tokens: list[int] = []
    first_s = last_s = 0.0
    async for event in stub.Generate(request):
        if event.tokens:
            last_s = time.monotonic()
            first_s = first_s or last_s
        tokens += event.tokens
    return tokens, last_s - first_s


async def hurry(fleet: LocalFleet, *, tokens: int, within_s: float) -> tuple[int, str]:
    """A long prompt with a short deadline: the answer's status and the request's id."""
    body = {"model": SHAPE, "prompt": [20 + (11 * at) % 1000 for at in range(tokens)], "max_tokens": 2}
    headers = {"x-sluice-timeout-s": str(within_s)}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{fleet.url}/completions", json=body, headers=headers) as got,
    ):
        return got.status, got.headers["x-request-id"]


def plan_of(policy: str) -> FleetPlan:
    """An H100 that prefills and an A100 that decodes; `policy` says which requests cross."""
    return FleetPlan(
        model_path=DEMO_MODEL,
        model_name=SHAPE,
        engine=EngineConfig(batch_sequences_max=64, step_tokens_max=512),
        emulate=SHAPE,
        emulated=emulated_workers(["H100:1p", "A100:1d"], shape=SHAPE, prices={}),
        placement=PlacementConfig(policy=policy),
    )


@pytest.mark.timeout(120)
async def test_requests_cross_from_one_gpu_class_to_another_and_keep_every_token() -> None:
    with LocalFleet(plan_of("round_robin")) as fleet:
        await asyncio.to_thread(fleet.wait_ready, lambda _joined: None)
        async with grpc.aio.insecure_channel(fleet.grpc_address) as channel:
            stub = rpc.InferenceStub(channel)
            answers = await asyncio.gather(*(ask(stub, prompt) for prompt in PROMPTS))
            rows = (await rpc.AdminStub(channel).GetWorkers(pb.GetWorkersRequest())).workers
            requests = (await rpc.AdminStub(channel).GetRequests(pb.GetRequestsRequest(limit=10))).requests
    assert [tokens for tokens, _ in answers] == [expected(prompt) for prompt in PROMPTS]
    assert {row.info.gpu_class for row in rows} == {"H100", "A100-80G"}
    assert any(row.prefill_worker == "h100-prefill-0" for row in requests)
    assert {row.decode_worker for row in requests} == {"a100-80g-decode-0"}
    decode_s = min(seconds for _, seconds in answers)
    curve = next(row.info.step_terms for row in rows if row.info.gpu_class == "A100-80G")
    assert decode_s > 0.8 * (OUTPUTS - 1) * curve.base_s, "faster than an A100 reads the weights"


@pytest.mark.timeout(120)
async def test_a_deadline_that_no_gpu_can_meet_is_refused_before_anything_is_computed() -> None:
    with LocalFleet(plan_of("joint")) as fleet:
        await asyncio.to_thread(fleet.wait_ready, lambda _joined: None)
        async with grpc.aio.insecure_channel(fleet.grpc_address) as channel:
            refused, request = await hurry(fleet, tokens=4000, within_s=0.05)
            why = await rpc.AdminStub(channel).Explain(pb.ExplainRequest(request_id=request))
    assert refused == 429, "an H100 takes longer for such a prompt: known before it is begun"
    (decision,) = why.decisions
    assert (decision.kind, decision.binding) == ("refused", "ttft")
    assert decision.candidates[0].ttft_s > 0.05


def test_a_class_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path) -> None:
    def build(**gpu: str) -> None:
        config = WorkerConfig(worker="w", model_path=str(DEMO_MODEL), emulate=SHAPE, gpu=GpuConfig(**gpu))  # type: ignore[arg-type]
        emulated_engine.build_engine(config)

    with pytest.raises(ConfigError, match=r"gpu.gpu_class: is empty"):
        build()
    with pytest.raises(ConfigError, match="GPU class 'B9000' is not known; use one of"):
        build(gpu_class="B9000")
    with pytest.raises(ConfigError, match="cannot be read"):
        build(gpu_class="H100", profile=str(tmp_path / "none.json"))
