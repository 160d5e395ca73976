"""Policies that move and flip on real processes over emulated GPUs: no token changes, people see what happened."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator

import grpc
import pytest
from real_processes import requests_of, wait_until, workers_of

from sluice.cli.fleet_options import DEMO_MODEL
from sluice.cli.gpu_pools import emulated_workers
from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.cli.main import main
from sluice.config.router import PlacementConfig
from sluice.config.worker import EngineConfig
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SHAPE = "Llama-3.1-8B"
OUTPUTS = 150


def plan_of(policy: str, *gpus: str) -> FleetPlan:
    return FleetPlan(
        model_path=DEMO_MODEL,
        model_name=SHAPE,
        engine=EngineConfig(batch_sequences_max=64, step_tokens_max=512),
        placement=PlacementConfig(policy=policy),
        emulate=SHAPE,
        emulated=emulated_workers(gpus, shape=SHAPE, prices={}),
    )


@pytest.fixture(scope="module")
def fleet() -> Iterator[LocalFleet]:
    """Two prefill workers, and three that decode, of which xLLM finds most to be idle."""
    with LocalFleet(plan_of("xllm", "H100:1p", "A100:3d")) as running:
        running.wait_ready(lambda _: None)
        yield running


async def ask(stub: rpc.InferenceStub, seed: int, *, outputs: int) -> list[int]:
    request = pb.GenerateRequest(
        model=SHAPE,
        prompt_tokens=pb.TokenIds(ids=[20 + (7 * at + seed) % 1000 for at in range(300)]),
        sampling=pb.SamplingParams(max_tokens=outputs, temperature=0.0, ignore_eos=True),
    )
    tokens: list[int] = []
    async for event in stub.Generate(request):
        tokens += event.tokens
    return tokens


async def answers_of(fleet: LocalFleet, requests: int, *, outputs: int = OUTPUTS) -> list[list[int]]:
    async with grpc.aio.insecure_channel(fleet.grpc_address) as channel:
        stub = rpc.InferenceStub(channel)
        return await asyncio.gather(*(ask(stub, seed, outputs=outputs) for seed in range(requests)))


def metrics_of(fleet: LocalFleet) -> str:
    with urllib.request.urlopen(f"http://{fleet.plan.host}:{fleet.http_port}/metrics", timeout=5) as reply:
        text: str = reply.read().decode()
        return text


async def test_a_policy_that_flips_loses_nothing_and_leaves_a_decode_worker(fleet: LocalFleet) -> None:
    first = await answers_of(fleet, 6)
    assert all(len(tokens) == OUTPUTS for tokens in first)
    roles = lambda: [row.info.role for row in workers_of(fleet)]  # noqa: E731
    await asyncio.to_thread(wait_until, lambda: roles().count("prefill") >= 2, "an idle decode worker that prefills")
    assert await answers_of(fleet, 6) == first, "tokens do not depend on who computes them"
    assert "decode" in roles()
    metrics = metrics_of(fleet)
    assert 'sluice_flips_total{outcome="done"}' in metrics
    assert 'sluice_wishes_total{kind="flip",result="begun"}' in metrics


def moves_of(fleet: LocalFleet) -> list[pb.MoveRow]:
    return [move for row in requests_of(fleet) for move in row.moves]


async def test_a_policy_that_moves_is_seen_in_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    """Llumnix packs what decodes onto few workers: what a person moves away from the others is brought back."""
    with LocalFleet(plan_of("llumnix", "A100:2m")) as fleet:
        await asyncio.to_thread(fleet.wait_ready, lambda _: None)
        asked = asyncio.create_task(answers_of(fleet, 2, outputs=1000))
        decoding = lambda: [row for row in requests_of(fleet) if row.output_tokens > 5]  # noqa: E731
        await asyncio.to_thread(wait_until, lambda: len(decoding()) == 2, "two running requests")
        one, other = decoding()
        if one.decode_worker == other.decode_worker:
            assert await asyncio.to_thread(main, ["migrate", one.request_id, "--grpc", fleet.grpc_address]) == 0
        consolidated = lambda: [m for m in moves_of(fleet) if m.why.startswith("consolidate")]  # noqa: E731
        await asyncio.to_thread(wait_until, lambda: bool(consolidated()), "a move by the policy")
        assert await asked == await answers_of(fleet, 2, outputs=1000)
        moved = next(row for row in requests_of(fleet) if any(move in consolidated() for move in row.moves))
        assert 'sluice_wishes_total{kind="move",result="begun"}' in metrics_of(fleet)
        capsys.readouterr()
        assert await asyncio.to_thread(main, ["get", "requests", "--json", "--grpc", fleet.grpc_address]) == 0
        assert any(row["moves"] for row in json.loads(capsys.readouterr().out)["requests"])
        assert await asyncio.to_thread(main, ["explain", moved.request_id, "--grpc", fleet.grpc_address]) == 0
        told = capsys.readouterr().out
        assert " move: to a100-80g-mixed-" in told
        assert "migrated from a100-80g-mixed-" in told
