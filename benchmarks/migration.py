"""How long a client waits when its request moves: live migration, stop-and-copy, and computing again.

Run `python benchmarks/migration.py`. For every way and context length a platform of two real workers
streams one long answer; in the middle the request is moved to the other worker. The pause is the
largest gap between two tokens minus the median gap; also printed in decode steps (median gaps). The
ways alternate, medians of all rounds are printed, and answers must be equal to the last token.
With `--plot FILE.svg` the curves are drawn.
"""

import argparse
import dataclasses
import importlib
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import grpc
import openai

from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.config.worker import EngineConfig, TransferConfig
from sluice.engine.random_models import save_random_model
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

SHAPE: Final = {
    "vocab_size": 600,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 40_000,
}
OUTPUT_TOKENS: Final = 200
MOVE_AT: Final = 30
WAYS: Final = ("live shm", "live tcp", "stop-and-copy tcp", "recompute")


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One moved request as its client saw it."""

    text: str
    pause_s: float
    step_s: float
    moved_bytes: int
    frozen_s: float


def plan_for(way: str, model: Path) -> FleetPlan:
    """Two workers that move requests in this way."""
    transport: Literal["shm", "tcp"] = "shm" if "shm" in way else "tcp"
    rounds = 0 if way.startswith("stop") else 8
    return FleetPlan(
        model_path=model,
        model_name="bench",
        prefill=0,
        decode=0,
        mixed=2,
        engine=EngineConfig(threads=1, kv_memory_mib=512),
        transfer=TransferConfig(transports=(transport,), copy_rounds_max=rounds, checksums="off"),
    )


def ask(fleet: LocalFleet, prompt: list[int], *, recompute: bool) -> Sample:
    """Stream one greedy completion and move it half-way."""
    client = openai.OpenAI(base_url=fleet.url, api_key="none", max_retries=0, timeout=600)
    stream = client.completions.create(
        model="bench",
        prompt=prompt,
        max_tokens=OUTPUT_TOKENS,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    times, parts, request = [], [], ""
    for chunk in stream:
        times.append(time.perf_counter())
        parts.append(chunk.choices[0].text)
        request = chunk.id
        if len(times) == MOVE_AT:
            with grpc.insecure_channel(fleet.grpc_address) as channel:
                rpc.AdminStub(channel).Migrate(pb.MigrateRequest(request_id=request, recompute=recompute))
    gaps = [after - before for before, after in itertools.pairwise(times)]
    with grpc.insecure_channel(fleet.grpc_address) as channel:
        (row,) = rpc.AdminStub(channel).GetRequests(pb.GetRequestsRequest(request_id=request)).requests
    assert len(row.moves) == 1, f"moved {len(row.moves)} times: {row.moves}"
    step_s = statistics.median(gaps)
    # The call above holds the reading of the next token up a little: not a pause of the platform's.
    pause_s = max(gap for i, gap in enumerate(gaps) if i != MOVE_AT - 1) - step_s
    return Sample("".join(parts), pause_s, step_s, row.moves[0].bytes, row.moves[0].frozen_s)


def report(contexts: Sequence[int], samples: dict[tuple[str, int], list[Sample]]) -> None:
    """Medians by way and context."""
    print(f"\n{'context':>8} {'way':20} {'pause ms':>9} {'worst':>8} {'steps':>6} {'frozen ms':>9} {'MB':>7}")
    for context in contexts:
        for way in WAYS:
            found = samples[way, context]
            pause = statistics.median(one.pause_s for one in found)
            steps = statistics.median(one.pause_s / one.step_s for one in found)
            worst = max(one.pause_s for one in found)
            frozen = statistics.median(one.frozen_s for one in found)
            moved = statistics.median(one.moved_bytes for one in found) / 1e6
            pauses = f"{pause * 1e3:9.1f} {worst * 1e3:8.1f} {steps:6.1f}"
            print(f"{context:8} {way:20} {pauses} {frozen * 1e3:9.1f} {moved:7.1f}")


def plot(contexts: Sequence[int], samples: dict[tuple[str, int], list[Sample]], path: Path) -> None:
    """Pause over context, both axes logarithmic, as an SVG; needs matplotlib, which Sluice does not."""
    plt = importlib.import_module("matplotlib.pyplot")
    figure, axes = plt.subplots(figsize=(7, 4))
    for way in WAYS:
        pauses = [statistics.median(one.pause_s for one in samples[way, context]) * 1e3 for context in contexts]
        axes.plot(contexts, pauses, marker="o", label=way)
    axes.set(xscale="log", yscale="log", xlabel="context, tokens", ylabel="pause seen by the client, ms")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> int:
    """Measure every way in turn."""
    parser = argparse.ArgumentParser(description="Pause of a migrated request by way and context length.")
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    samples: dict[tuple[str, int], list[Sample]] = {(way, n): [] for way in WAYS for n in arguments.contexts}
    with tempfile.TemporaryDirectory() as folder:
        model = make_model_directory(Path(folder))
        save_random_model(model, family="llama", **SHAPE)
        for way in WAYS:  # one platform at a time: idle ones would still take a share of the cores
            with LocalFleet(plan_for(way, model)) as fleet:
                fleet.wait_ready(lambda _: None)
                for context, turn in itertools.product(arguments.contexts, range(arguments.rounds)):
                    rng = random.Random(context * 1000 + turn)
                    prompt = [rng.randrange(10, 600) for _ in range(context)]
                    samples[way, context].append(ask(fleet, prompt, recompute=way == "recompute"))
                    print(".", end="", flush=True)
    for context, turn in itertools.product(arguments.contexts, range(arguments.rounds)):
        texts = {samples[way, context][turn].text for way in WAYS}
        assert len(texts) == 1, f"answers differ at context {context}"
    report(arguments.contexts, samples)
    if arguments.plot is not None:
        plot(arguments.contexts, samples, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
