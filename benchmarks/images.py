"""What encode workers give: one picture twice, eight pictures over four of them, and the memory of each process.

Run `python benchmarks/images.py [cached|memory|sharded|cores|flips ...]`. Real processes, random weights, pictures of
noise that no request shares with another unless it should.

    cached   a request's pictures new, then sent again: time and CPU time of the encode worker for either
    memory   largest and present private memory: encode, prefill and decode workers against one that does all
    sharded  TTFT of a request with eight pictures over four encode workers against one, on the same platform in turns
             (three are drained for the one), with towers that take a given time for an image: they sleep for the rest
    cores    the same with towers as fast as the machine's cores are
    flips    a worker from encode to prefill and back, requests with pictures running: seconds, and what was lost;
             against a worker that is stopped and another one that is started in its place
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import tokenizers
from PIL import Image

from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.config import load
from sluice.config.worker import EngineConfig, ImagesConfig, WorkerConfig
from sluice.engine.vision.random_vision_models import CONFIGS, IMAGE_TOKEN, VOCABULARY, save_random_vision_model
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

FAMILY: Final = "qwen2_5_vl"
SIDE: Final = 336
PIXELS: Final = {"size": {"shortest_edge": 28 * 28, "longest_edge": SIDE * SIDE}}
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
ENGINE: Final = EngineConfig(threads=1, kv_memory_mib=128, step_tokens_max=512)
PARTS: Final = ("cached", "memory", "sharded", "cores", "flips")
PACE_MS: Final = 530.0
"""What EPD's table 4 takes for one of eight images without sharding (4.27 s, MiniCPM-V 2.6; arXiv 2501.05460)."""

SEEDS: Final = itertools.count(1)


class NoEye(FleetPlan):
    """A platform whose other workers do not encode: the benchmark starts encode workers itself."""

    def images_of(self, role: str) -> ImagesConfig:  # noqa: ARG002 - the plan's own signature
        return ImagesConfig()


def make_model(directory: Path, *, tower: int, language: int, depth: int) -> Path:
    """A random model with `tower` and `language` as hidden sizes, `depth` layers each."""
    config: dict[str, Any] = json.loads(json.dumps(CONFIGS[FAMILY]))
    heads = language // 16
    config["text_config"] |= {"hidden_size": language, "intermediate_size": 3 * language, "num_hidden_layers": depth}
    config["text_config"] |= {"num_attention_heads": heads, "num_key_value_heads": max(2, heads // 2)}
    config["text_config"]["max_position_embeddings"] = 8192
    config["vision_config"] |= {"hidden_size": tower, "intermediate_size": 3 * tower, "num_heads": tower // 16}
    config["vision_config"] |= {"depth": depth, "out_hidden_size": language}
    save_random_vision_model(directory, family=FAMILY, config=config, processor=PIXELS, spread=0.05)
    words = {f"w{token}": token for token in range(VOCABULARY) if token != IMAGE_TOKEN} | {"<image>": IMAGE_TOKEN}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w3"))
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def picture() -> bytes:
    """A picture that nobody has seen."""
    pixels = np.random.default_rng(next(SEEDS)).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="BMP")
    return file.getvalue()


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One request as its client saw it, and the router's record of its images."""

    ttft_s: float
    tokens: tuple[int, ...]
    row: pb.RequestRow


def ask(address: str, files: list[bytes], *, tokens: int = 8) -> Answer:
    """Stream a greedy answer to some text with these pictures."""
    ids = [*range(3, 20)]
    for number, _ in enumerate(files):
        ids += [IMAGE_TOKEN, 20 + number, 21]
    request = pb.GenerateRequest(
        model="bench",
        prompt_tokens=pb.TokenIds(ids=ids),
        sampling=pb.SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True),
        pictures=[pb.Picture(data=data) for data in files],
    )
    with grpc.insecure_channel(address) as channel:
        got: list[int] = []
        name, first_s, started_s = "", 0.0, time.perf_counter()
        for event in rpc.InferenceStub(channel).Generate(request, timeout=120):
            first_s = first_s or time.perf_counter()
            got += event.tokens
            name = event.request_id
        (row,) = rpc.AdminStub(channel).GetRequests(pb.GetRequestsRequest(request_id=name)).requests
    return Answer(first_s - started_s, tuple(got), row)


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def memory_mib(pid: int) -> tuple[float, float]:
    """What only this process has in memory, and the most it ever had in all."""
    rollup = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    private = sum(int(rollup[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return private / 1024, int(status["VmHWM"].split()[0]) / 1024


@contextlib.contextmanager
def platform(model: Path, **counts: int) -> Iterator[LocalFleet]:
    """Real processes with this model."""
    plan = FleetPlan(model_path=model, model_name="bench", **{"prefill": 0, "decode": 0, "engine": ENGINE} | counts)  # type: ignore[arg-type]
    with LocalFleet(plan) as fleet:
        fleet.wait_ready(lambda _: None)
        yield fleet


def cached(folder: Path, rounds: int) -> None:
    """The same two pictures twice."""
    model = make_model(folder / "cached", tower=384, language=256, depth=8)
    print(f"\nthe same two pictures of {SIDE} x {SIDE} twice, medians of {rounds}")
    with platform(model, encode=1, prefill=1, decode=1) as fleet:
        pid = fleet.children["encode-0"].pid
        ask(fleet.grpc_address, [picture(), picture()])
        spent: dict[str, list[tuple[float, float, float]]] = {"new": [], "again": []}
        for _ in range(rounds):
            files = [picture(), picture()]
            answers = []
            for taken in spent.values():
                before_s = cpu_s(pid)
                answers.append(ask(fleet.grpc_address, files, tokens=1))
                time.sleep(
                    1.2
                )  # a heartbeat: the router hears what is cached; the worker's own housekeeping is counted
                row = answers[-1].row
                encode_s = max(cpu_s(pid) - before_s - idle_s(pid, fleet), 0.0)
                taken.append((encode_s, row.images_s, answers[-1].ttft_s))
            assert answers[0].tokens == answers[1].tokens, "a cached picture changes no token"
        middles = {name: [statistics.median(one[k] for one in all_) for k in range(3)] for name, all_ in spent.items()}
    for name, (encode_s, images_s, ttft_s) in middles.items():
        took = f"encode CPU {encode_s * 1e3:8.1f} ms   images in place {images_s * 1e3:8.1f} ms"
        print(f"  {name:6} {took}   TTFT {ttft_s * 1e3:8.1f} ms")
    ratios = [again / new for new, again in zip(middles["new"], middles["again"], strict=True)]
    print(f"  ratio  encode CPU {ratios[0]:.3f}   images in place {ratios[1]:.3f}   TTFT {ratios[2]:.3f}")


def idle_s(pid: int, fleet: LocalFleet) -> float:
    """What the encode worker's housekeeping costs in the pause after a request; measured once."""
    key = (pid, fleet.grpc_address)
    if key not in _IDLE:
        before_s = cpu_s(pid)
        time.sleep(6.0)
        _IDLE[key] = (cpu_s(pid) - before_s) / 6.0 * 1.2
    return _IDLE[key]


_IDLE: dict[tuple[int, str], float] = {}


def memory(folder: Path) -> None:
    """Each process after the same requests."""
    model = make_model(folder / "memory", tower=1024, language=1024, depth=8)
    weights = sum(path.stat().st_size for path in model.glob("*.safetensors")) / 2**20
    print(f"\nmemory after 4 requests of 8 pictures; all weights are {weights:.0f} MiB")
    for counts in ({"encode": 1, "prefill": 1, "decode": 1}, {"mixed": 1}):
        with platform(model, **counts) as fleet:
            for _ in range(4):
                ask(fleet.grpc_address, [picture() for _ in range(8)])
            for name, child in fleet.children.items():
                now, most = memory_mib(child.pid)
                if name != "router":
                    what = "all-in-one" if "mixed" in counts else ""
                    print(f"  {name:10} {what:11} private {now:7.0f} MiB   peak {most:7.0f} MiB")


@contextlib.contextmanager
def encoders(fleet: LocalFleet, folder: Path, *, count: int, pace_ms: float) -> Iterator[None]:
    """Encode workers of our own, with towers that take `pace_ms` for an image."""
    processes = []
    try:
        for number in range(count):
            config = WorkerConfig(
                worker=f"encode-{number}",
                role="encode",
                model_path=str(fleet.plan.model_path),
                model_name="bench",
                routers=(fleet.grpc_address,),
                engine=ENGINE,
            )
            path = folder / f"encode-{number}.yaml"
            path.write_text(load.to_yaml(json.loads(json.dumps(dataclasses.asdict(config)))))
            command = [
                sys.executable,
                str(Path(__file__).parent / "images_parts" / "paced_worker.py"),
                str(path),
                *(str(pace_ms), "0", "0"),
            ]
            with (folder / f"encode-{number}.log").open("w") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        fleet.wait_ready(lambda _: None)  # the others start at the same time
        deadline_s = time.monotonic() + 180
        while sum(row.info.role == "encode" and not row.load.unready for row in fleet.workers()) < count:
            assert time.monotonic() < deadline_s, "the encode workers did not come"
            time.sleep(0.2)
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=30)


def toggle(fleet: LocalFleet, workers: list[str], *, is_on: bool) -> None:
    """Drain encode workers, or have them work again."""
    with grpc.insecure_channel(fleet.grpc_address) as channel:
        for worker in workers:
            list(rpc.AdminStub(channel).Drain(pb.DrainRequest(worker=worker, deadline_s=30, resume=is_on), timeout=60))
    wanted = "ready" if is_on else "drained"
    while any(row.load.lifecycle != wanted for row in fleet.workers() if row.info.worker in workers):
        time.sleep(0.02)


def sharded(folder: Path, rounds: int, pace_ms: float) -> None:
    """Eight pictures, four encode workers against one; `pace_ms` 0: as fast as the cores are."""
    model = make_model(folder / f"sharded-{pace_ms:g}", tower=32 if pace_ms else 384, language=64, depth=2)
    plan = NoEye(model_path=model, model_name="bench", prefill=1, decode=1, engine=ENGINE)
    times: dict[int, list[float]] = {4: [], 1: []}
    with LocalFleet(plan) as fleet, contextlib.ExitStack() as stack:
        stack.enter_context(encoders(fleet, folder, count=4, pace_ms=pace_ms))
        ask(fleet.grpc_address, [picture() for _ in range(8)])
        others = [f"encode-{number}" for number in range(1, 4)]
        for _ in range(rounds):
            for count, taken in times.items():
                toggle(fleet, others, is_on=count == 4)
                answer = ask(fleet.grpc_address, [picture() for _ in range(8)])
                assert len(answer.row.encoders) == count, f"{answer.row.encoders} took part"
                taken.append(answer.ttft_s)
    four, one = statistics.median(times[4]), statistics.median(times[1])
    what = f"towers of {pace_ms:g} ms an image" if pace_ms else f"towers bound by {os.cpu_count()} cores"
    ratio = statistics.median(a / b for a, b in zip(times[4], times[1], strict=True))
    print(f"\n8 pictures, {what}: TTFT {four * 1e3:.0f} ms over 4 encode workers, {one * 1e3:.0f} ms over 1")
    print(f"  ratio {ratio:.3f} (median of {rounds} pairs)")


def flip(fleet: LocalFleet, worker: str, role: str) -> float:
    """Seconds until it does other work."""
    started_s = time.perf_counter()
    with grpc.insecure_channel(fleet.grpc_address) as channel:
        rpc.AdminStub(channel).Flip(pb.FlipRequest(worker=worker, role=role, deadline_s=60.0), timeout=300)
    return time.perf_counter() - started_s


def restart(fleet: LocalFleet, worker: str) -> float:
    """Seconds until a new process does the work of one that was stopped."""
    started_s = time.perf_counter()
    fleet.restart(worker)
    fleet.wait_ready(lambda _: None)
    return time.perf_counter() - started_s


def flips(folder: Path, rounds: int) -> None:
    """One of two encode workers goes over to prefill and comes back, while requests run."""
    model = make_model(folder / "flips", tower=384, language=256, depth=4)
    taken: dict[str, list[float]] = {"encode to prefill": [], "prefill to encode": [], "a new process": []}
    with platform(model, encode=2, prefill=1, decode=1) as fleet:
        ask(fleet.grpc_address, [picture(), picture()])
        stop = threading.Event()
        outcomes: list[bool] = []

        def client() -> None:
            while not stop.is_set():
                try:
                    outcomes.append(len(ask(fleet.grpc_address, [picture()], tokens=20).tokens) == 20)
                except grpc.RpcError as error:
                    print(f"  lost: {error}")
                    outcomes.append(False)

        threads = [threading.Thread(target=client) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(rounds):
            taken["encode to prefill"].append(flip(fleet, "encode-1", "prefill"))
            taken["prefill to encode"].append(flip(fleet, "encode-1", "encode"))
        taken["a new process"] = [restart(fleet, "encode-1") for _ in range(rounds)]
        stop.set()
        for thread in threads:
            thread.join()
    lost = outcomes.count(False)
    print(f"\nroles changed under load: {len(outcomes)} requests, {lost} of them lost; medians of {rounds}")
    for what, seconds in taken.items():
        print(f"  {what:18} {statistics.median(seconds):6.2f} s")


def main() -> None:
    """Run the named parts, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pace-ms", type=float, default=PACE_MS, metavar="MS")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "cached" in parts:
            cached(folder, arguments.rounds)
        if "memory" in parts:
            memory(folder)
        if "sharded" in parts:
            sharded(folder, arguments.rounds, arguments.pace_ms)
        if "cores" in parts:
            sharded(folder, arguments.rounds, 0.0)
        if "flips" in parts:
            flips(folder, arguments.rounds)


if __name__ == "__main__":
    main()
