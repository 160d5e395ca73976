"""Pictures on real processes: workers are killed in the middle of requests, and answers are as they should be."""

import os
import random
import signal
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from real_processes import requests_of, wait_until, workers_of
from vision_platform import MANY_TILES, NEW_TOKENS, Oracle, Shown, make_vision_model, picture_file, shown

from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.config.router import PlacementConfig
from sluice.config.worker import EngineConfig
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

pytestmark = pytest.mark.system

REQUESTS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vision_model(tmp_path_factory.mktemp("smolvlm"), "smolvlm", processor=MANY_TILES)


@pytest.fixture(scope="module")
def fleet(model: Path) -> Iterator[LocalFleet]:
    engine = EngineConfig(threads=1, kv_memory_mib=8, step_tokens_max=128)
    # A policy that splits whatever there is to split: what `joint` finds worth splitting hangs on measured speeds.
    placement = PlacementConfig(policy="round_robin")
    plan = FleetPlan(
        model_path=model, model_name="tiny", encode=2, prefill=1, decode=1, engine=engine, placement=placement
    )
    with LocalFleet(plan) as running:
        running.wait_ready(lambda _: None)
        yield running


def ask(fleet: LocalFleet, prompt: Shown) -> list[int]:
    request = pb.GenerateRequest(
        model="tiny",
        prompt_tokens=pb.TokenIds(ids=prompt.ids),
        sampling=pb.SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True),
        pictures=[pb.Picture(data=data) for data in prompt.files],
    )
    with grpc.insecure_channel(fleet.grpc_address) as channel:
        return [token for event in rpc.InferenceStub(channel).Generate(request, timeout=60) for token in event.tokens]


def redone(fleet: LocalFleet) -> float:
    """How many images were encoded or sent once more."""
    with urllib.request.urlopen(fleet.url.removesuffix("/v1") + "/metrics", timeout=10) as reply:
        families = text_string_to_metric_families(reply.read().decode())
        return next(family.samples[0].value for family in families if family.name == "sluice_images_redone")


def test_a_killed_encode_worker_changes_no_answer(fleet: LocalFleet, model: Path) -> None:
    rng = random.Random(5)
    oracle = Oracle(model)
    asked = [shown(seed, [picture_file(rng.randrange(10**6)) for _ in range(8)]) for seed in range(REQUESTS)]
    reader = fleet.children["prefill-0"].pid
    os.kill(reader, signal.SIGSTOP)  # takes in no picture, so that the encoder dies in the middle of some
    try:
        with ThreadPoolExecutor(REQUESTS) as clients:
            answers = [clients.submit(ask, fleet, prompt) for prompt in asked]
            wait_until(lambda: any("encode-0" in row.encoders for row in requests_of(fleet)), "a picture for encode-0")
            fleet.children["encode-0"].kill()
            os.kill(reader, signal.SIGCONT)
            assert [answer.result() for answer in answers] == [oracle.answer(prompt) for prompt in asked]
    finally:
        os.kill(reader, signal.SIGCONT)
    assert redone(fleet)
    fleet.restart("encode-0")
    fleet.wait_ready(lambda _: None)


def flip(fleet: LocalFleet, worker: str, role: str) -> None:
    """What `sluice flip` does."""
    with grpc.insecure_channel(fleet.grpc_address) as channel:
        request = pb.FlipRequest(worker=worker, role=role, deadline_s=30.0)
        reply = rpc.AdminStub(channel).Flip(request, timeout=120)
        assert reply.role == role


def test_encode_and_prefill_workers_become_one_another_under_load_and_nothing_is_lost(
    fleet: LocalFleet, model: Path
) -> None:
    rng = random.Random(7)
    oracle = Oracle(model)

    def asked(count: int) -> list[Shown]:
        return [shown(seed, [picture_file(rng.randrange(10**6)) for _ in range(4)]) for seed in range(count)]

    pid = fleet.children["encode-1"].pid
    for role in ("prefill", "encode"):
        prompts = asked(8)
        with ThreadPoolExecutor(len(prompts)) as clients:
            answers = [clients.submit(ask, fleet, prompt) for prompt in prompts]
            flip(fleet, "encode-1", role)
            assert [answer.result() for answer in answers] == [oracle.answer(prompt) for prompt in prompts]
        # It works in its new role: alone, for the others are drained.
        other = "prefill-0" if role == "prefill" else "encode-0"
        drain(fleet, other, is_on=False)
        prompts = asked(6)
        with ThreadPoolExecutor(len(prompts)) as clients:
            assert list(clients.map(lambda one: ask(fleet, one), prompts)) == [oracle.answer(one) for one in prompts]
        rows = requests_of(fleet)[:6]
        if role == "prefill":
            assert "encode-1" in {row.prefill_worker for row in rows}
        else:
            assert {name for row in rows for name in row.encoders} == {"encode-1"}
        drain(fleet, other, is_on=True)
    assert fleet.children["encode-1"].pid == pid, "the process stays, what it has loaded changes"


def drain(fleet: LocalFleet, worker: str, *, is_on: bool) -> None:
    """Drain a worker, or have it admit work again."""
    with grpc.insecure_channel(fleet.grpc_address) as channel:
        list(rpc.AdminStub(channel).Drain(pb.DrainRequest(worker=worker, deadline_s=30, resume=is_on), timeout=60))


def test_a_killed_prefill_worker_has_its_prompts_computed_elsewhere_with_their_pictures(
    fleet: LocalFleet, model: Path
) -> None:
    rng = random.Random(6)
    asked = [shown(seed, [picture_file(rng.randrange(10**6)) for _ in range(4)]) for seed in range(8)]
    oracle = Oracle(model)
    with ThreadPoolExecutor(len(asked)) as clients:
        answers = [clients.submit(ask, fleet, prompt) for prompt in asked]
        wait_until(lambda: any(row.state == "prefill" for row in requests_of(fleet)), "a prefill")
        fleet.restart("prefill-0")
        assert [answer.result() for answer in answers] == [oracle.answer(prompt) for prompt in asked]
    wait_until(
        lambda: all(not row.load.reserved_blocks and not row.load.leases for row in workers_of(fleet)), "empty workers"
    )
