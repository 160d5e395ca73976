"""What the other answers of two workers notice while one answer moves between them: their decode steps.

Run `python benchmarks/migration_company.py`. Two real workers decode one long answer each, the company.
Another answer, of each context length, is moved from one to the other and back again and again. A step of
the company is the gap between two of its tokens at its client. From the order to move until the first token
elsewhere its gaps are held against gaps of the same answer on the same worker with the same batch, with the
moving answer in it or without, shortly before and after, when nothing moves. The sums' ratio is the slowdown;
its interval is a bootstrap over the moves. `ms` is what a move costs the company of either worker in all.
Moves rest between pieces (`transfer.copy_share`); `--share 1` shows them without rests, as drains make them.
"""

import argparse
import bisect
import contextlib
import dataclasses
import itertools
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import grpc
from migration import SHAPE, Sample, ask, percentile, plan_for, request_for

from sluice.cli.local_fleet import LocalFleet
from sluice.config.worker import TransferConfig
from sluice.engine.random_models import save_random_model
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

COMPANY_TOKENS: Final = 30_000
APART: Final = 32  # tokens without a move between two
BEGUN_TOKENS: Final = 3  # of the moving answer: until then the company waits for the end of its prompt
RESAMPLES: Final = 2000
NEAR_GAPS: Final = 24  # undisturbed gaps before and after a move that it is held against


@dataclasses.dataclass(frozen=True, slots=True)
class Noticed:
    """One move, as the company on one of its two workers had it."""

    took_s: float
    expected_s: float
    gaps: int
    is_first: bool
    is_source: bool

    @property
    def excess_s(self) -> float:
        return self.took_s - self.expected_s


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """From the order to move until the first token elsewhere, as the client saw it; when the source sent its last."""

    ordered_s: float
    left_s: float
    arrived_s: float
    move: pb.MoveRow


@contextlib.contextmanager
def company_on_each(channel: grpc.Channel) -> Iterator[dict[str, list[float]]]:
    """One other answer is streamed on each of two workers until the block ends; when its tokens come, by worker."""
    stub, admin = rpc.InferenceStub(channel), rpc.AdminStub(channel)
    company: dict[str, list[float]] = {}
    calls, threads = [], []
    try:
        while len(company) < 2:
            call = stub.Generate(request_for([20 + len(calls)] * 64, max_tokens=COMPANY_TOKENS))
            calls.append(call)
            name = next(event.request_id for event in call if event.tokens)
            (row,) = admin.GetRequests(pb.GetRequestsRequest(request_id=name)).requests
            if row.decode_worker in company:
                call.cancel()
                continue
            times_s = company[row.decode_worker] = []
            threads.append(threading.Thread(target=hear, args=(call, times_s)))
            threads[-1].start()
        yield company
    finally:
        for call in calls:
            call.cancel()
        for thread in threads:
            thread.join()


def hear(call: Iterator[pb.GenerateEvent], times_s: list[float]) -> None:
    """Note when tokens come until the stream is cancelled."""
    with contextlib.suppress(grpc.RpcError):
        times_s.extend(time.perf_counter() for _ in call)


def windows_of(sample: Sample) -> list[Window]:
    """Every move of an answer."""
    found = []
    for move in sample.moves:
        arrived = min(move.at_token, len(sample.times_s) - 1)
        found.append(Window(sample.order_of(move).at_s, sample.times_s[arrived - 1], sample.times_s[arrived], move))
    return found


def noticed(sample: Sample, company: dict[str, list[float]]) -> Iterator[Noticed]:
    """What each worker's company had of each move."""
    windows = windows_of(sample)
    for number, window in enumerate(windows):
        for worker, is_source in ((window.move.from_worker, True), (window.move.to_worker, False)):
            gaps = list(itertools.pairwise(company[worker]))
            during = [gap for gap in gaps if gap[0] < window.arrived_s and gap[1] > window.ordered_s]
            calm = [gap for gap in gaps if not any(o.ordered_s < gap[1] and gap[0] < o.arrived_s for o in windows)]
            begun_s = sample.times_s[BEGUN_TOKENS]
            calm = [gap for gap in calm if begun_s <= gap[0] and gap[1] <= sample.times_s[-1]]
            with_it = near(calm, window, windows, worker=worker, is_here=True)
            without = near(calm, window, windows, worker=worker, is_here=False)
            if not during or not with_it or not without:
                continue
            turn_s = window.left_s if is_source else window.arrived_s
            here = [(after <= turn_s) if is_source else (after >= turn_s) for _, after in during]
            expected_s = sum(statistics.mean(with_it if is_here else without) for is_here in here)
            took_s = sum(after - before for before, after in during)
            yield Noticed(took_s, expected_s, len(during), number == 0, is_source)


def near(
    calm: Sequence[tuple[float, float]], window: Window, windows: Sequence[Window], *, worker: str, is_here: bool
) -> list[float]:
    """The company's undisturbed gaps nearest a move in which the moving answer was on its worker, or was not."""
    arrivals = [each.arrived_s for each in windows]
    chosen = []
    for before, after in calm:
        moves_done = bisect.bisect_right(arrivals, before)
        host = windows[moves_done - 1].move.to_worker if moves_done else windows[0].move.from_worker
        if (host == worker) == is_here:
            chosen.append((abs(before - window.ordered_s), after - before))
    return [gap_s for _, gap_s in sorted(chosen)[:NEAR_GAPS]]


def interval(rows: Sequence[Noticed]) -> tuple[float, float, float]:
    """The ratio of sums, and the bounds between which 95 of 100 resamplings of the moves lie."""
    rng = random.Random(0)

    def ratio(some: Sequence[Noticed]) -> float:
        return sum(row.took_s for row in some) / sum(row.expected_s for row in some)

    drawn = sorted(ratio(rng.choices(rows, k=len(rows))) for _ in range(RESAMPLES))
    return ratio(rows), drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES)]


def report(way: str, context: int, rows: Sequence[Noticed]) -> None:
    for name, chosen in (
        ("first", [row for row in rows if row.is_first]),
        ("later", [row for row in rows if not row.is_first]),
        ("source", [row for row in rows if row.is_source]),
        ("target", [row for row in rows if not row.is_source]),
        ("all", list(rows)),
    ):
        if not chosen:
            continue
        ratio, low, high = interval(chosen)
        excess = statistics.mean(row.excess_s for row in chosen)
        window = statistics.median(row.took_s for row in chosen)
        single = statistics.median(row.took_s / row.expected_s for row in chosen)
        worst = percentile([row.excess_s for row in chosen], 0.95)
        gaps = statistics.mean(row.gaps for row in chosen)
        print(
            f"{context:8} {way:12}{name:8}{len(chosen):5} {ratio:7.3f} [{low:.3f}, {high:.3f}] {single:7.3f}"
            f"{1e3 * excess:8.1f}{1e3 * worst:8.1f}{1e3 * window:8.0f}{gaps:7.1f}",
            flush=True,
        )


def main() -> int:
    """Measure every way in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--ways", nargs="+", choices=("live shm", "live tcp", "live nixl"), default=["live shm"])
    parser.add_argument("--rounds", type=int, default=3, help="answers for each way and context")
    parser.add_argument("--moves", type=int, default=8, help="of every answer")
    parser.add_argument("--warm", type=int, help="tokens of an answer moved beforehand; the longest context by default")
    parser.add_argument("--share", type=float, default=TransferConfig().copy_share)
    arguments = parser.parse_args()
    heads = ("context", "way", "moves", "", "ratio", "95 %", "median", "ms", "p95", "window", "steps")
    print("{:>8} {:12}{:8}{:>5} {:>7} {:14} {:>7}{:>8}{:>8}{:>8}{:>7}".format(*heads))
    with tempfile.TemporaryDirectory() as folder:
        model = make_model_directory(Path(folder))
        save_random_model(model, family="llama", **SHAPE)
        for way in arguments.ways:
            measure(arguments, way, model)
    return 0


def measure(arguments: argparse.Namespace, way: str, model: Path) -> None:
    """One platform, every context."""
    plan = plan_for(way, model, share=arguments.share)
    with LocalFleet(plan) as fleet, grpc.insecure_channel(fleet.grpc_address) as channel:
        fleet.wait_ready(lambda _: None)
        longest = [9 + n % 500 for n in range(arguments.warm or max(arguments.contexts))]
        ask(channel, longest, moves=2)  # the workers meet, and touch their memory
        with company_on_each(channel) as company:
            for context in arguments.contexts:
                found: list[Noticed] = []
                for turn in range(arguments.rounds):
                    rng = random.Random(context * 1000 + turn)
                    prompt = [rng.randrange(10, 600) for _ in range(context)]
                    sample = ask(channel, prompt, moves=arguments.moves, apart=APART)
                    found += noticed(sample, company)
                report(way, context, found)


if __name__ == "__main__":
    sys.exit(main())
