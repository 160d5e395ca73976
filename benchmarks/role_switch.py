"""EPD's switch of roles on real processes: outputs grow from 50 to 500 tokens, and three encoders become decoders.

Its table 6 (arXiv 2501.05460): 100 requests at 3/s with a picture each, 10 of 50 output tokens and then 90 of 500, on 5
encoders, 1 prefill and 2 decode workers; at their controller's first look, 5 s in, three encoders become decoders. Here
every worker is a real process whose steps take given times (images_parts/paced_worker.py), calibrated as
`reproduce_epd.py` calibrates the simulator; all times are divided by --hurry. The same platform runs the script without
the switch and with it, in turns. No controller of ours decides: `sluice flip` does what theirs did.

    python benchmarks/role_switch.py [--rounds 1] [--hurry 2]
"""

import argparse
import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, median
from typing import Final

import grpc
from images import ask, flip, make_model, picture

from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.config import load
from sluice.config.router import PlacementConfig
from sluice.config.worker import EngineConfig, ImagesConfig, WorkerConfig

FLEET: Final = {"encode": 5, "prefill": 1, "decode": 2}
SWITCHED: Final = ("encode-2", "encode-3", "encode-4")
OUTPUTS: Final = [50] * 10 + [500] * 90
RATE_PER_S, LOOK_S = 3.0, 5.0
IMAGE_MS, STEP_MS, SEQUENCE_MS = 530.0, 10.0, 2.45
"""As `reproduce_epd.py` finds them: an image of ten slices; a decode step, and each sequence in it."""
PRINTED: Final = (61.10, 28.01)
TPOT_S: Final = 0.1
"""Half way between the printed TPOTs: what counts as recovered."""
ENGINE: Final = EngineConfig(threads=1, kv_memory_mib=64, step_tokens_max=512, batch_sequences_max=128)


class RoutersAlone(FleetPlan):
    """A platform whose workers the benchmark starts itself."""

    def roles(self) -> list[tuple[str, str]]:  # type: ignore[override]  # the plan's own words for roles
        return []

    def images_of(self, role: str) -> ImagesConfig:  # noqa: ARG002 - the plan's own signature
        return ImagesConfig()


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """One request, times since the first one was sent."""

    began_s: float
    ended_s: float
    tpot_s: float
    is_whole: bool


def ready(fleet: LocalFleet) -> int:
    """Workers that admit work; none while the router starts."""
    try:
        return sum(not row.load.unready for row in fleet.workers())
    except grpc.RpcError:
        return 0


@contextlib.contextmanager
def workers(fleet: LocalFleet, folder: Path, hurry: float) -> Iterator[None]:
    """The whole fleet, each worker with the times it is given."""
    processes = []
    paces = [f"{value / hurry:g}" for value in (IMAGE_MS, STEP_MS, SEQUENCE_MS)]
    script = str(Path(__file__).parent / "images_parts" / "paced_worker.py")
    try:
        for role, count in FLEET.items():
            for number in range(count):
                config = WorkerConfig(
                    worker=f"{role}-{number}",
                    role=role,  # type: ignore[arg-type]  # one of FLEET's
                    model_path=str(fleet.plan.model_path),
                    model_name="bench",
                    routers=(fleet.grpc_address,),
                    engine=ENGINE,
                )
                path = folder / f"{config.worker}.yaml"
                path.write_text(load.to_yaml(json.loads(json.dumps(dataclasses.asdict(config)))))
                with path.with_suffix(".log").open("w") as log:
                    command = [sys.executable, script, str(path), *paces]
                    processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        deadline_s = time.monotonic() + 180
        while ready(fleet) < len(processes):
            assert time.monotonic() < deadline_s, "the workers did not come"
            time.sleep(0.2)
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=30)


def script(fleet: LocalFleet, hurry: float, *, switches: bool) -> tuple[list[Served], float]:
    """Every request of the script, and how long the switch took."""
    files = [picture() for _ in OUTPUTS]
    started_s = time.monotonic()

    def client(number: int) -> Served:
        began_s = number / RATE_PER_S / hurry
        time.sleep(max(0.0, started_s + began_s - time.monotonic()))
        try:
            answer = ask(fleet.grpc_address, [files[number]], tokens=OUTPUTS[number])
        except grpc.RpcError as error:
            print(f"lost: {error.code()}")
            return Served(began_s, began_s, 0.0, is_whole=False)
        ended_s = time.monotonic() - started_s
        tpot_s = (ended_s - began_s - answer.ttft_s) / (OUTPUTS[number] - 1)
        return Served(began_s, ended_s, tpot_s, is_whole=len(answer.tokens) == OUTPUTS[number])

    with ThreadPoolExecutor(len(OUTPUTS) + len(SWITCHED)) as pool:
        running = [pool.submit(client, number) for number in range(len(OUTPUTS))]
        taken_s = 0.0
        if switches:
            time.sleep(max(0.0, started_s + LOOK_S / hurry - time.monotonic()))
            taken_s = max(pool.map(lambda worker: flip(fleet, worker, "decode"), SWITCHED))
        return [one.result() for one in running], taken_s


def told(name: str, served: list[Served], hurry: float) -> float:
    """Prints a row; returns the mean latency of the long requests, in the script's own time."""
    long = served[10:]
    latency_s = fmean(one.ended_s - one.began_s for one in long) * hurry
    tpots = [one.tpot_s * hurry for one in long]
    late = [one.began_s * hurry for one, tpot_s in zip(long, tpots, strict=True) if tpot_s > TPOT_S]
    lost = sum(not one.is_whole for one in served)
    print(f"| {name} | {latency_s:.2f} | {median(tpots):.3f} | {len(late)} of {len(long)} | {lost} |", flush=True)
    return latency_s


def main() -> None:
    """Prints both ways of every round, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--hurry", type=float, default=2.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        model = make_model(Path(name) / "model", tower=32, language=64, depth=2)
        placement = PlacementConfig(policy="least_load", flips_max=0)
        plan = RoutersAlone(model_path=model, model_name="bench", engine=ENGINE, placement=placement)
        fleet = stack.enter_context(LocalFleet(plan))
        stack.enter_context(workers(fleet, Path(name), args.hurry))
        ask(fleet.grpc_address, [picture() for _ in range(8)])
        print(f"| times {args.hurry:g} | latency s | TPOT s, median | TPOT over {TPOT_S:g} s | lost |")
        print("| --- | --: | --: | --: | --: |")
        for _ in range(args.rounds):
            stays, _ = script(fleet, args.hurry, switches=False)
            alone_s = told("5E1P2D all along", stays, args.hurry)
            turns, taken_s = script(fleet, args.hurry, switches=True)
            switched_s = told("5E1P2D to 2E1P5D", turns, args.hurry)
            printed = PRINTED[1] / PRINTED[0]
            print(f"ratio {switched_s / alone_s:.2f} (printed {printed:.2f}); the switch took {taken_s:.2f} s")
            for worker in SWITCHED:
                flip(fleet, worker, "encode")


if __name__ == "__main__":
    main()
