"""How fast a worker empties: draining by live migration, beside waiting until its requests end.

Run `python benchmarks/drain.py`. All requests decode on one of two workers; then it is drained, and its
requests move to the other one. Printed: the time from the order to DRAINED, what was moved at which
measured speed, the bound of 1 s + bytes / speed, the largest gap of any client, and how long the same
requests take to end by themselves. Ends with status 1 if a request failed, was computed again, or an
answer is not that of the undisturbed run.
"""

import argparse
import collections
import dataclasses
import itertools
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc

from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.config.worker import EngineConfig, TransferConfig
from sluice.engine.random_models import save_random_model
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

MODEL: Final = "bench"
SHAPE: Final = {
    "vocab_size": 600,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 8192,
}
BEGUN_TOKENS: Final = 5
ALLOWANCE_S: Final = 1.0


@dataclasses.dataclass(slots=True)
class Stream:
    """One answer as its client sees it, read on a thread of its own."""

    prompt: tuple[int, ...]
    max_tokens: int
    tokens: list[int] = dataclasses.field(default_factory=list)
    times_s: list[float] = dataclasses.field(default_factory=list)

    def read(self, channel: grpc.Channel) -> None:
        """To its end."""
        sampling = pb.SamplingParams(max_tokens=self.max_tokens, temperature=0.0, ignore_eos=True)
        request = pb.GenerateRequest(model=MODEL, prompt_tokens=pb.TokenIds(ids=self.prompt), sampling=sampling)
        for event in rpc.InferenceStub(channel).Generate(request):
            self.tokens += event.tokens
            self.times_s += [time.perf_counter()] * len(event.tokens)

    def largest_gap_s(self, *, since_s: float) -> float:
        """The longest wait for a token after `since_s`."""
        times_s = [at_s for at_s in self.times_s if at_s >= since_s]
        return max((after - before for before, after in itertools.pairwise(times_s)), default=0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """What one drain took."""

    seconds: float
    moved_bytes: int
    bytes_per_s: float
    outcomes: collections.Counter[str]
    gap_s: float

    @property
    def bound_s(self) -> float:
        """What is aimed at."""
        return ALLOWANCE_S + (self.moved_bytes / self.bytes_per_s if self.bytes_per_s else 0.0)


def streams_of(arguments: argparse.Namespace, turn: int) -> list[Stream]:
    """The requests of one round: the same whenever they are asked for."""
    rng = random.Random(turn)
    return [
        Stream(tuple(rng.randrange(10, 600) for _ in range(arguments.context)), arguments.tokens)
        for _ in range(arguments.requests)
    ]


def begin(channel: grpc.Channel, streams: Sequence[Stream]) -> list[threading.Thread]:
    """Ask for all; returns when each has its first tokens."""
    threads = [threading.Thread(target=stream.read, args=(channel,)) for stream in streams]
    for thread in threads:
        thread.start()
    while not all(len(stream.tokens) >= BEGUN_TOKENS for stream in streams):
        time.sleep(0.005)
    return threads


def order(channel: grpc.Channel, worker: str, *, resume: bool) -> list[pb.DrainOutcome]:
    """Drain a worker to its end, or take it back."""
    request = pb.DrainRequest(worker=worker, resume=resume, deadline_s=0 if resume else 120)
    return [outcome for event in rpc.AdminStub(channel).Drain(request) for outcome in event.outcomes]


def until_end(channel: grpc.Channel, streams: Sequence[Stream]) -> float:
    """How long the requests take to end where they are."""
    threads = begin(channel, streams)
    begun_s = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun_s


def drained(fleet: LocalFleet, channel: grpc.Channel, streams: Sequence[Stream], *, full: str, empty: str) -> Drain:
    """Drain the worker `full` while the requests run there; `empty` takes them."""
    threads = begin(channel, streams)
    order(channel, empty, resume=True)
    while {row.info.worker: row.load.lifecycle for row in fleet.workers()}[empty] != "ready":
        time.sleep(0.01)
    begun_s = time.perf_counter()
    outcomes = order(channel, full, resume=False)
    seconds = time.perf_counter() - begun_s
    for thread in threads:
        thread.join()
    records = rpc.AdminStub(channel).GetRequests(pb.GetRequestsRequest(limit=len(streams))).requests
    links = [link for row in fleet.workers() if row.info.worker == full for link in row.load.links]
    return Drain(
        seconds=seconds,
        moved_bytes=sum(move.bytes for row in records for move in row.moves),
        bytes_per_s=max((link.gb_per_s for link in links), default=0.0) * 1e9,
        outcomes=collections.Counter(outcome.outcome for outcome in outcomes),
        gap_s=max(stream.largest_gap_s(since_s=begun_s) for stream in streams),
    )


def one_round(
    fleet: LocalFleet, channel: grpc.Channel, arguments: argparse.Namespace, turn: int
) -> tuple[float, Drain]:
    """The same requests twice: left alone, and drained away."""
    full, empty = (("mixed-0", "mixed-1"), ("mixed-1", "mixed-0"))[turn % 2]
    order(channel, empty, resume=False)
    alone = streams_of(arguments, turn)
    waited_s = until_end(channel, alone)
    moved = streams_of(arguments, turn)
    drain = drained(fleet, channel, moved, full=full, empty=empty)
    order(channel, full, resume=True)
    while not all(row.load.lifecycle == "ready" and not row.load.unready for row in fleet.workers()):
        time.sleep(0.01)
    assert [stream.tokens for stream in moved] == [stream.tokens for stream in alone], "answers differ"
    assert not drain.outcomes.keys() - {"migrated", "finished"}, f"not all moved: {drain.outcomes}"
    return waited_s, drain


def main() -> int:
    """Every transport in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transports", nargs="+", choices=["shm", "tcp", "nixl"], default=["shm", "tcp"])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--context", type=int, default=512, help="prompt tokens")
    parser.add_argument("--tokens", type=int, default=400, help="output tokens")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{arguments.requests} requests of {arguments.context} tokens; medians of {arguments.rounds} drains")
    print(
        f"{'':6}{'drained s':>10}{'bound s':>9}{'left alone s':>14}{'MB':>8}{'GB/s':>7}{'largest gap ms':>16}  outcomes"
    )
    with tempfile.TemporaryDirectory() as folder:
        model = make_model_directory(Path(folder) / "model")
        save_random_model(model, family="llama", **SHAPE)
        for transport in arguments.transports:
            plan = FleetPlan(
                model_path=model,
                model_name=MODEL,
                prefill=0,
                decode=0,
                mixed=2,
                engine=EngineConfig(threads=1, kv_memory_mib=600),
                transfer=TransferConfig(transports=(transport,)),
            )
            with LocalFleet(plan) as fleet, grpc.insecure_channel(fleet.grpc_address) as channel:
                fleet.wait_ready(lambda _: None)
                rounds = [one_round(fleet, channel, arguments, turn) for turn in range(arguments.rounds)]
            show(transport, rounds)
    return 0


def show(transport: str, rounds: Sequence[tuple[float, Drain]]) -> None:
    """One row: medians, and all outcomes."""
    waited_s = statistics.median(waited_s for waited_s, _ in rounds)
    drains = [drain for _, drain in rounds]
    seconds = statistics.median(drain.seconds for drain in drains)
    bound_s = statistics.median(drain.bound_s for drain in drains)
    moved_mb = statistics.median(drain.moved_bytes for drain in drains) / 1e6
    speed = statistics.median(drain.bytes_per_s for drain in drains) / 1e9
    gap_ms = 1e3 * statistics.median(drain.gap_s for drain in drains)
    outcomes = dict(sum((drain.outcomes for drain in drains), collections.Counter[str]()))
    moved = f"{moved_mb:8.1f}{speed:7.2f}{gap_ms:16.0f}  {outcomes}"
    print(f"{transport:6}{seconds:10.2f}{bound_s:9.2f}{waited_s:14.1f}{moved}")


if __name__ == "__main__":
    sys.exit(main())
