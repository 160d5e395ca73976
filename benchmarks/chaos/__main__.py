"""Whether anything is ever lost, repeated or changed: real processes, live clients, faults without pause.

Run `python benchmarks/chaos` (`make chaos`), or `--requests 100 --transports shm --seed 7`. For every transport
a platform of two routers and four workers answers each kind of request once, undisturbed; then the
requests are asked by the `openai` client while processes are killed and started again on the same
port, stopped and continued, drained, flipped, and requests moved. Every answer is compared. At the
end all must be let go: blocks, leases, sequences, processes, shared memory. The faults follow from
the seed. Ends with status 1 if anything is wrong.
"""

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final, Literal

import chaos_load
import psutil
from chaos_faults import Saboteur, draw
from prometheus_client.parser import text_string_to_metric_families

from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.config.worker import EngineConfig, TransferConfig
from sluice.engine.random_models import save_random_model
from sluice.kv_transfer.memory import NAME_PREFIX, SHM_DIRECTORY
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.wire.gen import sluice_pb2 as pb

Transport = Literal["shm", "tcp", "nixl"]
HOLDING: Final = ("active", "held", "reserved")
QUIET_S_MAX: Final = 90.0
PROGRESS_EVERY: Final = 100


def plan_for(transport: Transport, model: Path) -> FleetPlan:
    """Two routers; workers of every role, small pools, every transfer checked."""
    return FleetPlan(
        model_path=model,
        model_name=chaos_load.MODEL,
        prefill=1,
        decode=2,
        mixed=1,
        routers=2,
        engine=EngineConfig(threads=1, kv_memory_mib=8, step_tokens_max=128),
        transfer=TransferConfig(transports=(transport,), checksums="always", lease_s=6.0),
    )


async def disturbed(fleet: LocalFleet, arguments: argparse.Namespace) -> list[str]:
    """The load and the faults together; everything that was wrong."""
    requests, seed = arguments.requests, arguments.seed
    expected = await chaos_load.references(fleet.urls)
    saboteur = Saboteur(fleet, down_max=2)
    sabotage = asyncio.create_task(saboteur.run(draw(seed, every_s=arguments.every)), name="faults")
    answered, started_s = 0, time.monotonic()

    def on_answer() -> None:
        nonlocal answered
        answered += 1
        if answered % PROGRESS_EVERY == 0:
            print(f"{time.monotonic() - started_s:8.1f} s  {answered} answered", flush=True)

    loading = asyncio.create_task(
        chaos_load.load(fleet.urls, expected, requests=requests, connections=arguments.connections, on_answer=on_answer)
    )
    await asyncio.wait({loading, sabotage}, return_when=asyncio.FIRST_COMPLETED)
    sabotage.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sabotage
    await saboteur.mend()
    wrong, resumed = await loading
    wrong += await let_go(fleet)
    faults = ", ".join(f"{count} x {kind.value}" for kind, count in saboteur.counts.items() if count)
    print(f"{requests} requests in {time.monotonic() - started_s:.0f} s, {resumed} resumed by their client; {faults}")
    if saboteur.restarts:
        print(f"{saboteur.restarts} workers ended by themselves")
    return wrong


async def let_go(fleet: LocalFleet) -> list[str]:
    """What workers still hold once all is quiet, or the wait is over."""
    deadline_s = time.monotonic() + QUIET_S_MAX
    while True:
        rows = {row.info.worker: row for row in await asyncio.to_thread(fleet.workers)}
        held = {name: await asyncio.to_thread(held_by, row) for name, row in rows.items()}
        if not any(held.values()) or time.monotonic() > deadline_s:
            return [f"{name} still holds {what}" for name, what in held.items() if what]
        await asyncio.sleep(0.3)


def held_by(row: pb.WorkerRow) -> str:
    """What a worker holds, by its own metrics and its latest heartbeat; "" if nothing."""
    with urllib.request.urlopen(f"http://{row.info.metrics_address}/metrics", timeout=10) as reply:
        families = {family.name: family for family in text_string_to_metric_families(reply.read().decode())}
    blocks = sum(int(s.value) for s in families["sluice_kv_blocks"].samples if s.labels["state"] in HOLDING)
    load = row.load
    sequences = load.running_sequences + load.waiting_sequences
    return f"{blocks} blocks, {load.leases} leases, {sequences} sequences" if blocks or load.leases or sequences else ""


def one_platform(transport: Transport, model: Path, arguments: argparse.Namespace) -> list[str]:
    """Start, disturb, stop; everything that was wrong."""
    requests, seed = arguments.requests, arguments.seed
    before = set(SHM_DIRECTORY.glob(f"{NAME_PREFIX}*"))
    print(f"=== {transport}: {requests} requests, seed {seed}", flush=True)
    with LocalFleet(plan_for(transport, model)) as fleet:
        fleet.wait_ready(lambda _: None)
        wrong = asyncio.run(disturbed(fleet, arguments))
        children = {child.pid for child in fleet.children.values()}
        ours = {
            path for path in SHM_DIRECTORY.glob(f"{NAME_PREFIX}*") if path not in before and is_mapped(path, children)
        }
        if wrong:
            for name in fleet.children:
                text = (fleet.folder / f"{name}.log").read_text(errors="replace")
                Path(tempfile.gettempdir(), f"chaos-{seed}-{name}.log").write_text(text)
            print(f"logs: {tempfile.gettempdir()}/chaos-{seed}-*.log")
    left = sum(psutil.pid_exists(pid) for pid in children)
    wrong += [f"{left} processes are left"] if left else []
    return wrong + [f"{path} is left" for path in ours if path.exists()]


def run_alone(arguments: argparse.Namespace, number: int) -> int:
    """The exit status of one transport's share, with a seed of its own."""
    words = {
        "--requests": -(-arguments.requests // len(arguments.transports)),
        "--transports": arguments.transports[number],
        "--seed": arguments.seed + number,
        "--connections": arguments.connections,
        "--every": arguments.every,
    }
    flat = [str(word) for pair in words.items() for word in pair]
    return subprocess.run([sys.executable, Path(__file__).parent, *flat], check=False).returncode


def is_mapped(path: Path, pids: set[int]) -> bool:
    """Whether one of these processes has mapped the file."""
    return any(path.name in Path(f"/proc/{pid}/maps").read_text() for pid in pids)


def main() -> int:
    """One transport here; several each in a process of its own, since gRPC ties itself to one event loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="shared among the transports")
    parser.add_argument("--transports", nargs="+", choices=["shm", "tcp", "nixl"], default=["shm", "tcp", "nixl"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--connections", type=int, default=12)
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help="mean time between faults")
    arguments = parser.parse_args()
    if len(arguments.transports) > 1:
        return sum(run_alone(arguments, number) != 0 for number in range(len(arguments.transports)))
    with tempfile.TemporaryDirectory() as folder:
        model = make_model_directory(Path(folder) / "model")
        save_random_model(model, family="llama", vocab_size=600)
        wrong = one_platform(arguments.transports[0], model, arguments)
    for problem in wrong:
        print(f"WRONG: {problem}")
    print(f"{len(wrong)} wrong" if wrong else "nothing lost, repeated, changed or left behind")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
