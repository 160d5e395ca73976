"""How long a client waits when its request moves: live migration, stop-and-copy, and computing again.

Run `python benchmarks/migration.py`. For every way and context length a platform of two real workers
streams one answer at a time, which is moved to the other worker and back every few tokens. The pause
of a move is the largest of the gaps between tokens around it, less the median gap; it is also
printed in decode steps (median gaps). Beside it stands what the machine does by itself: the same
figure around tokens at which nothing moved. The first move of an answer copies all of it, every later
one what is new since the worker had it last: they have rows of their own. Each platform begins with
an answer of the longest context, which is not counted: memory that is touched for the first time costs
more than all the rest. Answers must be equal to the last token whatever moved. With `--companions N`
every worker decodes N other answers all the while, and their steps with and without moves are compared.
With `--plot FILE.svg` the curves are drawn.
"""

import argparse
import contextlib
import dataclasses
import itertools
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import grpc

from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.config.worker import EngineConfig, TransferConfig
from sluice.engine.random_models import save_random_model
from sluice.simulator import svg
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

MODEL: Final = "bench"
SHAPE: Final = {
    "vocab_size": 600,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 40_000,
}
PLOT_STYLE: Final = (
    "text{font:11px sans-serif}.title{font-weight:bold}.grid{stroke:#d8dee4}polyline{fill:none;stroke-width:2}"
)
TOKENS_APART: Final = 16  # from one move to the next
AROUND: Final = 3  # gaps that a move may have lengthened: its own and those after it
COMPANION_TOKENS: Final = 20_000
FIRST: Final = slice(0, 1)
WHICH: Final = {"first": FIRST, "later": slice(1, None)}
WAYS: Final = ("live shm", "live tcp", "live nixl", "stop-and-copy tcp", "recompute")


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One answer as its client saw it: when each token came, and what the router says of its moves."""

    tokens: tuple[int, ...]
    times_s: tuple[float, ...]
    moves: tuple[pb.MoveRow, ...]
    company: tuple[tuple[float, ...], ...] = ()  # when the tokens of other answers came

    @property
    def slowdown(self) -> float | None:
        """The mean gap of other answers while this one moved, over theirs while nothing moved."""
        windows = [self._window(move.at_token) for move in self.moves]
        during, else_ = [], []
        for times_s in self.company:
            for before, after in itertools.pairwise(times_s):
                if self.times_s[0] <= before and after <= self.times_s[-1]:
                    is_during = any(begun < after and before < ended for begun, ended in windows)
                    (during if is_during else else_).append(after - before)
        return statistics.mean(during) / statistics.mean(else_) if during and else_ else None

    def _window(self, at_token: int) -> tuple[float, float]:
        """From the order that led to a move to the token after it."""
        ordered = max(TOKENS_APART, (at_token - 1) // TOKENS_APART * TOKENS_APART)
        return self.times_s[ordered - 1], self.times_s[min(at_token, len(self.times_s) - 1)]

    @property
    def gaps_s(self) -> list[float]:
        """Gap i is what passed before token i + 1."""
        return [after - before for before, after in itertools.pairwise(self.times_s)]

    @property
    def step_s(self) -> float:
        """The median gap."""
        return statistics.median(self.gaps_s)

    def pauses_s(self, which: slice) -> list[float]:
        """Around the moves of a slice, the largest gap less the median one."""
        return [self._pause_s(move.at_token - 1) for move in self.moves[which]]

    def noises_s(self) -> list[float]:
        """The same around tokens half-way between two moves."""
        places = [move.at_token - 1 + TOKENS_APART // 2 for move in self.moves]
        return [self._pause_s(place) for place in places if place + AROUND < len(self.gaps_s)]

    def _pause_s(self, place: int) -> float:
        return max(self.gaps_s[place : place + AROUND]) - self.step_s


def plan_for(way: str, model: Path) -> FleetPlan:
    """Two workers that move requests in this way."""
    names: dict[str, Literal["shm", "tcp", "nixl"]] = {"shm": "shm", "tcp": "tcp", "nixl": "nixl"}
    transport = names.get(way.rsplit(maxsplit=1)[-1], "shm")
    rounds = 0 if way.startswith("stop") else 8
    return FleetPlan(
        model_path=model,
        model_name=MODEL,
        prefill=0,
        decode=0,
        mixed=2,
        engine=EngineConfig(threads=1, kv_memory_mib=800),
        transfer=TransferConfig(transports=(transport,), copy_rounds_max=rounds, checksums="off"),
    )


def request_for(prompt: Sequence[int], *, max_tokens: int) -> pb.GenerateRequest:
    """A greedy answer of exactly `max_tokens` tokens."""
    sampling = pb.SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return pb.GenerateRequest(model=MODEL, prompt_tokens=pb.TokenIds(ids=prompt), sampling=sampling)


def ask(channel: grpc.Channel, prompt: Sequence[int], *, moves: int, recompute: bool) -> Sample:
    """Stream one answer and ask for a move every TOKENS_APART tokens; one may come while the last is under way."""
    request = request_for(prompt, max_tokens=TOKENS_APART * (moves + 1))
    tokens: list[int] = []
    times_s: list[float] = []
    orders: list[grpc.Future[pb.MigrateReply]] = []  # one that is let go is cancelled
    admin = rpc.AdminStub(channel)
    name = ""
    for event in rpc.InferenceStub(channel).Generate(request):
        now_s = time.perf_counter()
        name = event.request_id or name
        for token in event.tokens:
            tokens.append(token)
            times_s.append(now_s)
            if len(tokens) % TOKENS_APART == 0 and len(tokens) < request.sampling.max_tokens:
                orders.append(admin.Migrate.future(pb.MigrateRequest(request_id=name, recompute=recompute)))
    (row,) = admin.GetRequests(pb.GetRequestsRequest(request_id=name)).requests
    assert row.moves, "it did not move"
    return Sample(tuple(tokens), tuple(times_s), tuple(row.moves))


@contextlib.contextmanager
def companions(channel: grpc.Channel, count: int) -> Iterator[list[list[float]]]:
    """`count` other answers are streamed on every worker until the block ends; when their tokens come."""
    calls = [
        rpc.InferenceStub(channel).Generate(request_for([20 + n] * 64, max_tokens=COMPANION_TOKENS))
        for n in range(2 * count)
    ]
    times_s: list[list[float]] = [[] for _ in calls]
    threads = [threading.Thread(target=drain_quietly, args=both) for both in zip(calls, times_s, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield times_s
    finally:
        for call in calls:
            call.cancel()
        for thread in threads:
            thread.join()


def drain_quietly(call: Iterator[pb.GenerateEvent], times_s: list[float]) -> None:
    """Read a stream until it is cancelled."""
    with contextlib.suppress(grpc.RpcError):
        times_s.extend(time.perf_counter() for _ in call)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def report(contexts: Sequence[int], ways: Sequence[str], samples: dict[tuple[str, int], list[Sample]]) -> None:
    """Rows for each way and context: pauses, in ms and in steps, beside the machine's own hiccups."""
    print(f"\n{'':37}{'':>6} {'pause, ms':>13} {'in steps':>11} {'nothing moved':>14} {'frozen, ms':>11}")
    heads = ("context", "way", "which", "moves", "step", "p50", "p99", "p50", "p99", "p50", "p99", "p50", "p99", "MB")
    print("{:>8} {:18}{:9}{:>6}{:>6}{:>7}{:>7}{:>6}{:>6}{:>7}{:>7}{:>6}{:>6}{:>7}".format(*heads))
    for context, way, (name, which) in itertools.product(contexts, ways, WHICH.items()):
        found = samples[way, context]
        pauses = [pause for one in found for pause in one.pauses_s(which)]
        if not pauses:
            continue
        steps = [pause / one.step_s for one in found for pause in one.pauses_s(which)]
        noises = [noise / one.step_s for one in found for noise in one.noises_s()] or [0.0]
        frozen = [move.frozen_s for one in found for move in one.moves[which]]
        moved_mb = statistics.median(move.bytes for one in found for move in one.moves[which]) / 1e6
        step_ms = 1e3 * statistics.median(one.step_s for one in found)
        print(f"{context:8} {way:18}{name:9}{len(pauses):6}{step_ms:6.1f}", end="")
        for values, scale in ((pauses, 1e3), (steps, 1), (noises, 1), (frozen, 1e3)):
            print(f"{scale * statistics.median(values):7.1f}{scale * percentile(values, 0.99):7.1f}", end="")
        print(f"{moved_mb:7.1f}")
        slowdowns = [one.slowdown for one in found if one.slowdown is not None]
        if slowdowns and which is FIRST:
            print(
                f"{'':8} steps of other answers while it moved / while nothing did: {statistics.median(slowdowns):.3f}"
            )


def plot(
    contexts: Sequence[int], ways: Sequence[str], samples: dict[tuple[str, int], list[Sample]], path: Path
) -> None:
    """Median pause of first moves over context, in decode steps, as an SVG; what is dearer is cut off."""
    lines = []
    for way in ways:
        found = [samples[way, context] for context in contexts]
        steps = [statistics.median(p / one.step_s for one in some for p in one.pauses_s(FIRST)) for some in found]
        lines.append(svg.Line(way, list(contexts), steps))
    chart = svg.Chart("Pause seen by the client", "context, tokens", "decode steps", lines, x_is_log=True, y_max=10.0)
    body = svg.draw(chart).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    path.write_text(body.replace(">", f"><style>{PLOT_STYLE}</style>", 1) + "\n")


def measure(arguments: argparse.Namespace, model: Path) -> dict[tuple[str, int], list[Sample]]:
    """Every way in turn: one platform at a time, because idle ones would still take a share of the cores."""
    samples: dict[tuple[str, int], list[Sample]] = {(way, n): [] for way in arguments.ways for n in arguments.contexts}
    for way in arguments.ways:
        with LocalFleet(plan_for(way, model)) as fleet, grpc.insecure_channel(fleet.grpc_address) as channel:
            fleet.wait_ready(lambda _: None)
            say_progress = progress_of(way)
            longest = [9 + n % 500 for n in range(max(arguments.contexts))]
            with companions(channel, arguments.companions) as company:
                ask(channel, longest, moves=4, recompute=False)  # the workers meet, and touch their memory
                for context, turn in itertools.product(arguments.contexts, range(arguments.rounds)):
                    rng = random.Random(context * 1000 + turn)
                    prompt = [rng.randrange(10, 600) for _ in range(context)]
                    sample = ask(channel, prompt, moves=arguments.moves, recompute=way == "recompute")
                    seen = tuple(tuple(times_s) for times_s in company)
                    samples[way, context].append(dataclasses.replace(sample, company=seen))
                    say_progress(context)
        report(arguments.contexts, [way], samples)
    return samples


def progress_of(way: str) -> Callable[[int], None]:
    """Prints a way's name, then the context of each answer."""
    print(f"\n{way}:", end="", flush=True)
    return lambda context: print(f" {context}", end="", flush=True)


def main() -> int:
    """Measure every way in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5, help="answers for each way and context")
    parser.add_argument("--moves", type=int, default=8, help="of every answer")
    parser.add_argument("--companions", type=int, default=0, help="other answers on each worker")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_model_directory(Path(folder))
        save_random_model(model, family="llama", **SHAPE)
        samples = measure(arguments, model)
    for context, turn in itertools.product(arguments.contexts, range(arguments.rounds)):
        answers = {samples[way, context][turn].tokens for way in arguments.ways}
        assert len(answers) == 1, f"answers differ at context {context}"
    if arguments.plot is not None:
        plot(arguments.contexts, arguments.ways, samples, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
