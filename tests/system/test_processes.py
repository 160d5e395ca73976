"""A platform of real processes: clients see every answer through while workers are killed and come back."""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import random
import select
import signal
import subprocess
import sys
import termios
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest
from openai.types import Completion
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from real_processes import are_gone, descendants, requests_of, shared_memory_of, sluice, wait_until, workers_of

from sluice.cli import main
from sluice.cli.local_fleet import ROUTER, FleetPlan, LocalFleet
from sluice.config.worker import EngineConfig, TransferConfig
from sluice.telemetry.metric_table import BlockState
from sluice.wire.gen import sluice_pb2 as pb

pytestmark = pytest.mark.system

MODEL = "tiny"
TOKEN_BYTES = 4 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head size, float32
GREEDY = {"temperature": 0.0}
SEEDED = {"temperature": 0.9, "top_p": 0.95, "seed": 4321}


def plan(model_path: Path, *, prefill: int, decode: int) -> FleetPlan:
    return FleetPlan(
        model_path=model_path,
        model_name=MODEL,
        prefill=prefill,
        decode=decode,
        engine=EngineConfig(threads=1, kv_memory_mib=8, step_tokens_max=128),
        transfer=TransferConfig(checksums="always"),
    )


@pytest.fixture(scope="module")
def running(model_path: Path) -> Iterator[LocalFleet]:
    """A prefill and two decode workers for the whole module."""
    with LocalFleet(plan(model_path, prefill=1, decode=2)) as fleet:
        fleet.wait_ready(lambda _: None)
        yield fleet


@pytest.fixture
def fleet(running: LocalFleet) -> LocalFleet:
    """The platform with all its workers, those that an earlier test killed started anew."""
    running.restart_lost()
    running.wait_ready(lambda _: None)
    return running


@pytest.fixture
async def client(fleet: LocalFleet) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=fleet.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def prompt_of(seed: int, *, tokens: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(10, 600) for _ in range(tokens)]


async def start_stream(
    client: openai.AsyncOpenAI, prompt: list[int], settings: dict[str, float], *, max_tokens: int
) -> openai.AsyncStream[Completion]:
    return await client.completions.create(
        model=MODEL, prompt=prompt, max_tokens=max_tokens, stream=True, extra_body={"ignore_eos": True}, **settings
    )


async def read(stream: openai.AsyncStream[Completion]) -> str:
    return "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])


async def test_a_prompt_is_prefilled_on_one_process_and_decoded_on_another(
    fleet: LocalFleet, client: openai.AsyncOpenAI
) -> None:
    stream = await start_stream(client, prompt_of(1, tokens=200), GREEDY, max_tokens=12)
    assert await read(stream)
    wait_until(lambda: bool(requests_of(fleet)[0].kv_bytes), "the report of the handoff")
    row = requests_of(fleet)[0]
    assert row.prefill_worker.startswith("prefill-")
    assert row.decode_worker.startswith("decode-")
    assert row.transport == "shm"
    assert row.output_tokens == 12


async def test_a_killed_decode_worker_changes_no_token_of_its_streams(
    fleet: LocalFleet, client: openai.AsyncOpenAI
) -> None:
    prompt, kinds = prompt_of(2, tokens=150), (GREEDY, SEEDED)
    expected = [await read(await start_stream(client, prompt, kind, max_tokens=400)) for kind in kinds]
    streams = [await start_stream(client, prompt, kind, max_tokens=400) for kind in kinds]
    begun = [await anext(stream) for stream in streams]
    before = [record_of(fleet, chunk.id) for chunk in begun]
    victim = before[0].decode_worker
    assert [(row.state, row.decode_worker) for row in before] == [("decode", victim)] * 2, (
        "cached there, so both go there"
    )
    os.kill(fleet.children[victim].pid, signal.SIGKILL)
    rest = await asyncio.gather(*(read(stream) for stream in streams))
    assert [chunk.choices[0].text + text for chunk, text in zip(begun, rest, strict=True)] == expected
    for row in before:
        after = record_of(fleet, row.request_id)
        assert (after.epoch, after.state) == (row.epoch + 1, "finished")
        assert after.decode_worker != victim
        assert after.output_tokens == 400


async def test_a_killed_prefill_worker_changes_no_token(fleet: LocalFleet, client: openai.AsyncOpenAI) -> None:
    """The only worker left is the one that the lost worker was to hand over to."""
    prompts = [prompt_of(seed, tokens=3000) for seed in range(10, 13)]
    running = [asyncio.create_task(complete(client, prompt)) for prompt in prompts]
    await asyncio.to_thread(wait_until, lambda: len(prefilling(fleet)) == len(prompts), "all to be placed")
    row = prefilling(fleet)[0]  # the newest: the others are computed before it
    for worker in {"prefill-0", "decode-0", "decode-1"} - {row.decode_worker}:
        os.kill(fleet.children[worker].pid, signal.SIGKILL)
    texts = await asyncio.gather(*running)
    after = record_of(fleet, row.request_id)
    assert after.epoch > row.epoch
    assert after.prefill_worker == after.decode_worker == row.decode_worker
    assert texts == [await complete(client, prompt) for prompt in prompts]


def prefilling(fleet: LocalFleet) -> list[pb.RequestRow]:
    return [row for row in requests_of(fleet) if row.state == "prefill" and row.decode_worker.startswith("decode")]


async def test_a_frozen_decode_worker_is_given_up_and_its_streams_go_on(
    fleet: LocalFleet, client: openai.AsyncOpenAI
) -> None:
    prompt = prompt_of(4, tokens=150)
    expected = await read(await start_stream(client, prompt, GREEDY, max_tokens=300))
    stream = await start_stream(client, prompt, GREEDY, max_tokens=300)
    begun = await anext(stream)
    victim = fleet.children[record_of(fleet, begun.id).decode_worker].pid
    os.kill(victim, signal.SIGSTOP)
    try:
        assert begun.choices[0].text + await read(stream) == expected
    finally:
        os.kill(victim, signal.SIGCONT)


async def test_dropped_streams_leave_nothing_on_any_worker(fleet: LocalFleet, client: openai.AsyncOpenAI) -> None:
    for seed in range(20, 26):
        stream = await start_stream(client, prompt_of(seed, tokens=200), GREEDY, max_tokens=1000)
        await anext(stream)
        await stream.close()
    await asyncio.to_thread(wait_until, lambda: all(map(is_empty, workers_of(fleet))), "empty workers")


def is_empty(row: pb.WorkerRow) -> bool:
    load = row.load
    return not (load.running_sequences or load.waiting_sequences or load.reserved_blocks or load.leases)


async def test_every_process_serves_metrics_that_parse_and_show_the_request(
    fleet: LocalFleet, client: openai.AsyncOpenAI
) -> None:
    before = metrics_of(fleet)
    await complete(client, prompt_of(30, tokens=220))
    await asyncio.to_thread(wait_until, lambda: bool(requests_of(fleet)[0].kv_bytes), "the report of the handoff")
    row, after = requests_of(fleet)[0], metrics_of(fleet)

    def grown(process: str, name: str, **labels: str) -> float:
        return value(after[process], name, labels) - value(before[process], name, labels)

    assert grown(ROUTER, "sluice_ttft_seconds_count") == 1
    assert grown(ROUTER, "sluice_requests_total", outcome="completed") == 1
    assert grown(ROUTER, "sluice_placements_total", kind="disaggregated") == 1
    moved = {"transport": "shm"}
    assert grown(row.prefill_worker, "sluice_transfer_bytes_total", direction="sent", **moved) == row.kv_bytes
    assert grown(row.decode_worker, "sluice_transfer_bytes_total", direction="received", **moved) == 220 * TOKEN_BYTES
    for worker in workers_of(fleet):
        families = after[worker.info.worker]
        states = [value(families, "sluice_kv_blocks", {"state": state.value}) for state in BlockState]
        assert sum(states) == worker.info.blocks


def metrics_of(fleet: LocalFleet) -> dict[str, list[Metric]]:
    """Every process's metrics as Prometheus reads them."""
    addresses = {row.info.worker: row.info.metrics_address for row in workers_of(fleet)}
    addresses[ROUTER] = f"127.0.0.1:{fleet.http_port}"
    return {name: families_at(address) for name, address in addresses.items()}


def families_at(address: str) -> list[Metric]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        return list(text_string_to_metric_families(reply.read().decode()))


def value(families: list[Metric], name: str, labels: dict[str, str]) -> float:
    found = (s.value for family in families for s in family.samples if s.name == name and s.labels == labels)
    return next(found, 0.0)


def test_get_prints_workers_and_requests_as_json(fleet: LocalFleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["get", "workers", "--json", "--grpc", fleet.grpc_address]) == 0
    workers = json.loads(capsys.readouterr().out)["workers"]
    assert {row["info"]["worker"] for row in workers} == {"prefill-0", "decode-0", "decode-1"}
    assert main.main(["get", "requests", "--json", "--limit", "1", "--grpc", fleet.grpc_address]) == 0
    (row,) = json.loads(capsys.readouterr().out)["requests"]
    assert row["state"] == "finished"


async def test_chat_streams_answers_line_by_line(fleet: LocalFleet, tmp_path: Path) -> None:
    process = sluice("chat", "--url", fleet.url, "--max-tokens", "5", temporary=tmp_path)
    out, err = await asyncio.to_thread(process.communicate, "hello\n\nonce more\n", 60)
    assert process.returncode == 0, err
    assert out.count("model  ") == 2
    assert MODEL in out


@pytest.mark.parametrize(("key", "status"), [(b"\x04", 0), (b"\x03", 130)], ids=["Ctrl-D", "Ctrl-C"])
def test_chat_in_a_terminal_ends_without_a_word_too_many(fleet: LocalFleet, key: bytes, status: int) -> None:
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "sluice.cli.main", "chat", "--url", fleet.url, "--max-tokens", "5"]
    with subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        preexec_fn=own_terminal,  # noqa: PLW1509 - two system calls and no lock
    ) as chat:
        os.close(terminal)
        seen = read_until(screen, b"you")
        os.write(screen, b"hello\n")
        seen += read_until(screen, b"model") + read_until(screen, b"you")
        for _ in range(6):  # CPython's input() sleeps on where the signal comes just before it waits: press again
            os.write(screen, key)
            with contextlib.suppress(subprocess.TimeoutExpired):
                chat.wait(5)
                break
        chat.kill()
        assert chat.returncode == status
    os.close(screen)
    assert b"Traceback" not in seen


def own_terminal() -> None:
    """Make standard input the controlling terminal, so that Ctrl-C arrives as a signal."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(screen: int, word: bytes) -> bytes:
    seen = b""
    while word not in seen:
        ready, _, _ = select.select([screen], [], [], 60)
        assert ready, seen
        seen += os.read(screen, 4096)
    return seen


def test_stopping_leaves_no_process_no_shared_memory_and_no_folder(running: LocalFleet) -> None:
    """Runs last: ends the module's platform, one worker of which was killed and started anew."""
    children = descendants(os.getpid())
    ours = [p for p in children if p.pid in {child.pid for child in running.children.values()}]
    files = shared_memory_of(child.pid for child in running.children.values())
    assert len(ours) == 4
    assert len(files) >= 3
    os.kill(running.children["decode-1"].pid, signal.SIGKILL)  # leaves its memory behind; stopping must not
    folder = running.folder
    running.stop()
    assert are_gone(ours)
    assert not [path for path in files if path.exists()]
    assert not folder.exists()


async def complete(client: openai.AsyncOpenAI, prompt: list[int]) -> str:
    reply = await client.completions.create(model=MODEL, prompt=prompt, max_tokens=12, temperature=0)
    return reply.choices[0].text


def record_of(fleet: LocalFleet, request: str) -> pb.RequestRow:
    return next(row for row in requests_of(fleet) if row.request_id == request)
