"""What a handoff costs: TTFT and TPOT of a prefill and a decode worker against one worker that does both.

Run `python benchmarks/handoff.py`. Two platforms of real processes, each with its own router, run
the same model with one engine thread a worker: `split` hands every prompt over, `colocated` never
does. Single requests alternate between them, so that a noisy machine disturbs both alike; medians
of all rounds are printed. `CPU s` is the processor time of all processes of a platform for one
request, from /proc: trustworthy also where wall time is not; `gap` is the median gap between two
tokens, `TPOT` the mean, which has the handoff's one pause in it. Tokens of both must be the same.
"""

import argparse
import contextlib
import dataclasses
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
import openai
import torch

from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.config.worker import EngineConfig, TransferConfig
from sluice.engine.random_models import save_random_model
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

SHAPE: Final = {
    "vocab_size": 600,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 4096,
}
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
REPORT_S_MAX: Final = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One request as its client and the kernel saw it; `moved` is zero where nothing was handed over."""

    text: str
    ttft_s: float
    tpot_s: float
    gap_s: float
    cpu_s: float
    moved_bytes: int
    transfer_s: float
    exposed_s: float


def cpu_s(fleet: LocalFleet) -> float:
    """Processor time of the platform's processes so far."""
    total = 0
    for child in fleet.children.values():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def ask(fleet: LocalFleet, client: openai.OpenAI, prompt: list[int], tokens: int) -> Sample:
    """Stream one greedy completion."""
    spent_s = cpu_s(fleet)
    started_s = time.perf_counter()
    stream = client.completions.create(
        model="bench", prompt=prompt, max_tokens=tokens, temperature=0, stream=True, extra_body={"ignore_eos": True}
    )
    times, parts, request = [], [], ""
    for chunk in stream:
        times.append(time.perf_counter())
        parts.append(chunk.choices[0].text)
        request = chunk.id
    row = record(fleet, request)
    return Sample(
        text="".join(parts),
        ttft_s=times[0] - started_s,
        tpot_s=(times[-1] - times[0]) / (tokens - 1),  # the pause of the handoff is in it
        gap_s=statistics.median(after - before for before, after in itertools.pairwise(times)),
        cpu_s=cpu_s(fleet) - spent_s,
        moved_bytes=row.kv_bytes,
        transfer_s=row.transfer_s,
        exposed_s=row.exposed_s,
    )


def record(fleet: LocalFleet, request: str) -> pb.RequestRow:
    """The router's record, once the prefill worker has reported the handoff."""
    deadline_s = time.monotonic() + REPORT_S_MAX
    with grpc.insecure_channel(fleet.grpc_address) as channel:
        while True:
            (row,) = rpc.AdminStub(channel).GetRequests(pb.GetRequestsRequest(request_id=request)).requests
            if row.kv_bytes or row.prefill_worker == row.decode_worker or time.monotonic() > deadline_s:
                return row
            time.sleep(0.01)


def report(prompt_tokens: int, samples: dict[str, list[Sample]]) -> None:
    """Medians, and split over colocated."""

    def middle(name: str, value: Callable[[Sample], float]) -> float:
        return statistics.median(map(value, samples[name]))

    print(f"\nprompt {prompt_tokens} tokens, medians of {len(samples['split'])}")
    print(f"  {'':10} {'TTFT ms':>9} {'TPOT ms':>9} {'gap ms':>9} {'CPU s':>8}")
    for name in samples:
        ttft, tpot, gap = (middle(name, lambda s, f=f: getattr(s, f) * 1e3) for f in ("ttft_s", "tpot_s", "gap_s"))
        print(f"  {name:10} {ttft:9.1f} {tpot:9.2f} {gap:9.2f} {middle(name, lambda s: s.cpu_s):8.2f}")
    pairs = list(zip(samples["split"], samples["colocated"], strict=True))
    fields = ("ttft_s", "tpot_s", "gap_s", "cpu_s")
    ttft, tpot, gap, cpu = (statistics.median(getattr(a, f) / getattr(b, f) for a, b in pairs) for f in fields)
    print(f"  {'ratio':10} {ttft:9.3f} {tpot:9.3f} {gap:9.3f} {cpu:8.3f}   (median of the pairs' ratios)")
    moved, seconds = middle("split", lambda s: s.moved_bytes), middle("split", lambda s: s.transfer_s)
    exposed = middle("split", lambda s: s.exposed_s) * 1e3
    print(f"  moved {moved / 1e6:.2f} MB at {moved / max(seconds, 1e-9) / 1e9:.2f} GB/s, {exposed:.1f} ms exposed")


def main() -> None:
    """Start both platforms, alternate requests, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--prompts", type=int, nargs="+", default=[512, 1024, 2048], metavar="TOKENS")
    parser.add_argument("--tokens", type=int, default=33, help="output tokens of each request")
    parser.add_argument("--transport", choices=["shm", "tcp", "nixl"], default="shm")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        model = make_model_directory(Path(folder) / "model")
        save_random_model(model, family="llama", spread=0.05, **SHAPE)
        plan = FleetPlan(
            model_path=model,
            model_name="bench",
            engine=EngineConfig(threads=1, kv_memory_mib=256),
            transfer=TransferConfig(transports=(arguments.transport,)),
        )
        plans = {"colocated": dataclasses.replace(plan, prefill=0, decode=0, mixed=1), "split": plan}
        fleets = {name: stack.enter_context(LocalFleet(each)) for name, each in plans.items()}
        clients = {}
        for name, fleet in fleets.items():
            fleet.wait_ready(lambda _: None)
            clients[name] = stack.enter_context(openai.OpenAI(base_url=fleet.url, api_key="none", max_retries=0))
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, one thread per engine, {arguments.transport}")
        for length in arguments.prompts:
            samples: dict[str, list[Sample]] = {name: [] for name in fleets}
            for turn in range(arguments.rounds + 1):
                prompt = [rng.randrange(10, 600) for _ in range(length)]
                order = list(fleets) if turn % 2 else list(reversed(fleets))
                answers = {name: ask(fleets[name], clients[name], prompt, arguments.tokens) for name in order}
                if answers["split"].text != answers["colocated"].text:
                    sys.exit("the platforms answered differently: a bug, and no figure")
                if turn:  # the first round warms up
                    for name, sample in answers.items():
                        samples[name].append(sample)
            report(length, samples)


if __name__ == "__main__":
    main()
