"""How soon a lost worker is noticed, what its clients feel, and how soon it serves again.

Run `python benchmarks/recovery.py`. Three workers; one of them, decoding an answer, is killed (SIGKILL) or stopped
(SIGSTOP), again and again. Printed for each: the time until the router has given it up, the largest gap
its client saw (beside the undisturbed largest one), and for a killed one that is started again on the
same port, the time until it is ready and has served a request. Meanwhile another answer runs
elsewhere. Ends with status 1 if an answer is not that of the undisturbed run, if the other answer was
touched, or if another process was restarted.
"""

import argparse
import dataclasses
import itertools
import os
import random
import signal
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
from sluice.config.worker import EngineConfig
from sluice.engine.random_models import save_random_model
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

MODEL: Final = "bench"
WORKERS: Final = 3
PROMPT_TOKENS: Final = 200
OUTPUT_TOKENS: Final = 800
BEGUN_TOKENS: Final = 20
LOOK_EVERY_S: Final = 0.005
TARGETS_S: Final = {signal.SIGKILL: 1.0, signal.SIGSTOP: 5.0}


@dataclasses.dataclass(slots=True)
class Stream:
    """One answer, read on a thread of its own."""

    channel: grpc.Channel
    prompt: tuple[int, ...]
    request: str = ""
    tokens: list[int] = dataclasses.field(default_factory=list)
    times_s: list[float] = dataclasses.field(default_factory=list)

    def read(self) -> None:
        """To its end."""
        sampling = pb.SamplingParams(max_tokens=OUTPUT_TOKENS, temperature=0.0, ignore_eos=True)
        request = pb.GenerateRequest(model=MODEL, prompt_tokens=pb.TokenIds(ids=self.prompt), sampling=sampling)
        for event in rpc.InferenceStub(self.channel).Generate(request):
            self.request = event.request_id or self.request
            self.tokens += event.tokens
            self.times_s += [time.perf_counter()] * len(event.tokens)

    def begin(self) -> threading.Thread:
        """Read on a new thread; returns when it has begun."""
        thread = threading.Thread(target=self.read)
        thread.start()
        while len(self.tokens) < BEGUN_TOKENS:
            time.sleep(LOOK_EVERY_S)
        return thread

    def row(self) -> pb.RequestRow:
        """What the router says of it."""
        (row,) = rpc.AdminStub(self.channel).GetRequests(pb.GetRequestsRequest(request_id=self.request)).requests
        return row

    @property
    def gap_s(self) -> float:
        """The longest wait for a token."""
        return max(after - before for before, after in itertools.pairwise(self.times_s))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What one loss took."""

    noticed_s: float
    gap_s: float
    ready_s: float
    served_s: float


def prompt_of(number: int) -> tuple[int, ...]:
    """A prompt like no other."""
    rng = random.Random(number)
    return tuple(rng.randrange(10, 600) for _ in range(PROMPT_TOKENS))


def names(fleet: LocalFleet) -> set[str]:
    """The ready workers, as the router knows them."""
    return {row.info.worker for row in fleet.workers() if row.load.lifecycle == "ready" and not row.load.unready}


def wait(*, until: bool) -> bool:
    """Pass the time between two looks; gives `until` back."""
    if not until:
        time.sleep(LOOK_EVERY_S)
    return until


def one_loss(fleet: LocalFleet, channel: grpc.Channel, how: signal.Signals, expected: Sequence[int]) -> Loss:
    """Lose the worker of a stream, and get it back."""
    stream, other = Stream(channel, prompt_of(0)), Stream(channel, prompt_of(1))
    threads = [stream.begin()]
    victim = stream.row().decode_worker or stream.row().prefill_worker
    threads.append(other.begin())
    others = {name: child.pid for name, child in fleet.children.items() if name != victim}
    (port,) = (int(r.info.kv_address.rpartition(":")[2]) for r in fleet.workers() if r.info.worker == victim)
    before = other.row()
    is_elsewhere = victim not in {before.prefill_worker, before.decode_worker}
    lost_s = time.perf_counter()
    os.kill(fleet.children[victim].pid, how)
    while not wait(until=victim not in names(fleet)):
        pass
    noticed_s = time.perf_counter() - lost_s
    for thread in threads:
        thread.join()
    back_s = time.perf_counter()
    if how is signal.SIGKILL:
        fleet.restart(victim, kv_port=port)
    else:
        os.kill(fleet.children[victim].pid, signal.SIGCONT)
    while not wait(until=victim in names(fleet)):
        pass
    ready_s = time.perf_counter() - back_s
    served_s = until_it_serves(fleet, channel, victim) - back_s
    assert stream.tokens == list(expected), "the answer has changed"
    assert not is_elsewhere or other.row().epoch == before.epoch, "the other answer was touched"
    assert others == {name: child.pid for name, child in fleet.children.items() if name != victim}
    return Loss(noticed_s=noticed_s, gap_s=stream.gap_s, ready_s=ready_s, served_s=served_s)


def until_it_serves(fleet: LocalFleet, channel: grpc.Channel, worker: str) -> float:
    """When this worker has answered a request: the others are drained for a moment."""
    admin = rpc.AdminStub(channel)
    others = sorted(names(fleet) - {worker})
    for other in others:
        list(admin.Drain(pb.DrainRequest(worker=other)))
    sampling = pb.SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
    request = pb.GenerateRequest(model=MODEL, prompt_tokens=pb.TokenIds(ids=prompt_of(2)), sampling=sampling)
    while not wait(until=is_answered(channel, request)):
        pass
    served_s = time.perf_counter()
    for other in others:
        list(admin.Drain(pb.DrainRequest(worker=other, resume=True)))
    while not wait(until=len(names(fleet)) == WORKERS):
        pass
    return served_s


def is_answered(channel: grpc.Channel, request: pb.GenerateRequest) -> bool:
    """Whether the router takes a request now: a worker must have answered its canary first."""
    try:
        return bool(list(rpc.InferenceStub(channel).Generate(request)))
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False


def main() -> int:
    """Killed and stopped in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_model_directory(Path(folder) / "model")
        save_random_model(model, family="llama", vocab_size=600)
        engine = EngineConfig(threads=1, kv_memory_mib=32)
        plan = FleetPlan(model_path=model, model_name=MODEL, prefill=0, decode=0, mixed=WORKERS, engine=engine)
        with LocalFleet(plan) as fleet, grpc.insecure_channel(fleet.grpc_address) as channel:
            fleet.wait_ready(lambda _: None)
            quiet = Stream(channel, prompt_of(0))
            quiet.begin().join()
            print(f"undisturbed, the largest gap is {1e3 * quiet.gap_s:.0f} ms")
            print(f"{'':10}{'noticed s':>22}{'largest gap s':>16}{'ready again s':>16}{'served again s':>16}")
            for how in TARGETS_S:
                losses = [one_loss(fleet, channel, how, quiet.tokens) for _ in range(arguments.rounds)]
                show(how, losses)
    return 0


def show(how: signal.Signals, losses: Sequence[Loss]) -> None:
    """One row: medians, and the worst time to notice beside its target."""
    worst_s = max(loss.noticed_s for loss in losses)
    print(f"{how.name:10}{statistics.median(loss.noticed_s for loss in losses):8.2f}", end="")
    print(
        f"{f'≤ {worst_s:.2f} of {TARGETS_S[how]:g}':>14}{statistics.median(loss.gap_s for loss in losses):16.2f}",
        end="",
    )
    for values in ([loss.ready_s for loss in losses], [loss.served_s for loss in losses]):
        print(f"{statistics.median(values):16.2f}", end="")
    print()


if __name__ == "__main__":
    sys.exit(main())
