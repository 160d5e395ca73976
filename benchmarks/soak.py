"""Whether anything is left behind: many requests, a quarter of them dropped midway, against real processes.

Run `python benchmarks/soak.py`. Prints the resident memory of every process after 20, 60 and 100 % of
the requests, then what the workers still hold once all is quiet, then what is left of the processes
after stopping. Ends with status 1 unless blocks, leases, processes and shared memory are all zero
and no process grew by more than 10 % from the first mark to the last.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final

import grpc
import openai
import psutil
import torch
from prometheus_client.parser import text_string_to_metric_families

from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.config.worker import EngineConfig
from sluice.engine.random_models import save_random_model
from sluice.kv_transfer.memory import NAME_PREFIX, SHM_DIRECTORY
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

CONNECTIONS: Final = 24
DROPPED_SHARE: Final = 0.25
PROMPT_TOKENS_MAX: Final = 300
OUTPUT_TOKENS: Final = 8
QUIET_S_MAX: Final = 60.0
GROWTH_MAX: Final = 1.10
MARKS: Final = (0.2, 0.6, 1.0)
HOLDING: Final = ("active", "held", "reserved")


async def drive(fleet: LocalFleet, requests: int) -> dict[str, int]:
    """Send `requests` requests; how many of them ended which way."""
    outcomes = {"answered": 0, "dropped": 0}
    limit = asyncio.Semaphore(CONNECTIONS)
    async with openai.AsyncOpenAI(base_url=fleet.url, api_key="none", max_retries=0, timeout=120) as client:

        async def one(seed: int) -> None:
            rng = random.Random(seed)
            prompt = [rng.randrange(10, 600) for _ in range(rng.randrange(1, PROMPT_TOKENS_MAX))]
            drop_after = rng.randrange(OUTPUT_TOKENS) if rng.random() < DROPPED_SHARE else None
            async with limit:
                stream = await client.completions.create(
                    model="soak", prompt=prompt, max_tokens=OUTPUT_TOKENS, stream=True, seed=seed
                )
                seen = 0
                if drop_after != 0:
                    async for _ in stream:
                        seen += 1
                        if seen == drop_after:
                            break
                await stream.close()
                outcomes["answered" if drop_after is None else "dropped"] += 1

        await asyncio.gather(*(one(random.getrandbits(40)) for _ in range(requests)))
    return outcomes


def memory_mib(fleet: LocalFleet) -> dict[str, float]:
    """Resident memory of every process."""
    return {name: psutil.Process(child.pid).memory_info().rss / 2**20 for name, child in fleet.children.items()}


def workers(fleet: LocalFleet) -> list[pb.WorkerRow]:
    """The workers as the router knows them."""
    with grpc.insecure_channel(fleet.grpc_address) as channel:
        return list(rpc.AdminStub(channel).GetWorkers(pb.GetWorkersRequest(), timeout=10).workers)


def held_blocks(row: pb.WorkerRow) -> int:
    """KV blocks of a worker that a sequence or a transfer holds, by its own metrics."""
    with urllib.request.urlopen(f"http://{row.info.metrics_address}/metrics", timeout=10) as reply:
        families = {family.name: family for family in text_string_to_metric_families(reply.read().decode())}
    return sum(int(s.value) for s in families["sluice_kv_blocks"].samples if s.labels["state"] in HOLDING)


def wait_quiet(fleet: LocalFleet) -> tuple[int, int]:
    """Blocks held and leases open, once both are zero or the wait is over."""
    deadline_s = time.monotonic() + QUIET_S_MAX
    while True:
        rows = workers(fleet)
        blocks, leases = sum(map(held_blocks, rows)), sum(row.load.leases for row in rows)
        if not (blocks or leases) or time.monotonic() > deadline_s:
            return blocks, leases
        time.sleep(0.2)


def shared_memory() -> set[str]:
    """KV pools in shared memory now, anyone's."""
    return {path.name for path in SHM_DIRECTORY.glob(f"{NAME_PREFIX}*")}


def main() -> int:
    """Drive, look, stop, look again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--prefill", type=int, default=1)
    parser.add_argument("--decode", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(1)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model_directory(Path(folder) / "model")
        save_random_model(model, family="llama", vocab_size=600)
        engine = EngineConfig(threads=1, kv_memory_mib=8)
        plan = FleetPlan(
            model_path=model,
            model_name="soak",
            prefill=arguments.prefill,
            decode=arguments.decode,
            engine=engine,
        )
        with LocalFleet(plan) as fleet:
            fleet.wait_ready(lambda _: None)
            marks, outcomes = soak(fleet, arguments.requests)
            blocks, leases = wait_quiet(fleet)
            pids = {child.pid for child in fleet.children.values()}
            mapped = {name for pid in pids for name in shared_memory() if name in Path(f"/proc/{pid}/maps").read_text()}
    left = sum(psutil.pid_exists(pid) for pid in pids) + len(psutil.Process().children(recursive=True))
    growth = max(marks[-1][name] / marks[0][name] for name in marks[0])
    return verdict(
        outcomes, blocks=blocks, leases=leases, left=left, files=len(mapped & shared_memory()), growth=growth
    )


def soak(fleet: LocalFleet, requests: int) -> tuple[list[dict[str, float]], dict[str, int]]:
    """All requests in three parts, with every process's memory after each."""
    marks: list[dict[str, float]] = []
    outcomes: dict[str, int] = {}
    done = 0
    print(f"{os.cpu_count()} cores; {requests} requests, {CONNECTIONS} at a time\n{'RSS in MiB after':18}", end="")
    print("".join(f"{name:>12}" for name in fleet.children))
    for share in MARKS:
        part = asyncio.run(drive(fleet, round(requests * share) - done))
        outcomes = {name: outcomes.get(name, 0) + number for name, number in part.items()}
        done = round(requests * share)
        marks.append(memory_mib(fleet))
        print(f"{done:9} requests" + "".join(f"{mib:12.1f}" for mib in marks[-1].values()), flush=True)
    return marks, outcomes


def verdict(outcomes: dict[str, int], *, blocks: int, leases: int, left: int, files: int, growth: float) -> int:
    """Print what is left; 0 if nothing is."""
    print(f"{outcomes['answered']} answered, {outcomes['dropped']} dropped midway")
    print(f"blocks held {blocks}, leases {leases}, processes left {left}, shared memory left {files}")
    print(f"largest growth of a process {100 * (growth - 1):.1f} %")
    return 1 if blocks or leases or left or files or growth > GROWTH_MAX else 0


if __name__ == "__main__":
    sys.exit(main())
