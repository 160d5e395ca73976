"""How long a client waits when its request moves: live migration, stop-and-copy, and computing again.

Run `python benchmarks/migration.py`. For every way and context length a platform of two real workers
streams one answer at a time, which is moved to the other worker and back every few tokens. The pause
of a move is the largest of the gaps between tokens around it, less the median gap; it is also
printed in decode steps (median gaps). Beside it stands what the machine does by itself: the same
figure around tokens at which nothing moved. The first move of an answer copies all of it, every later
one what is new since the worker had it last: they have rows of their own. Each platform begins with
an answer of the longest context, which is not counted: memory that is touched for the first time costs
more than all the rest. Answers must be equal to the last token whatever moved.

Long prompts take minutes to compute, so `--anew` makes every move a first one: the worker that an answer
has left is killed and started anew before the next move, its memory untouched. `--save FILE` adds what was
measured to a file, `--load FILE...` reads such files and measures nothing; `--plot FILE.svg` draws the medians
of first moves. Moves rest between pieces (`transfer.copy_share`); with `--share 1` they do not, as in drains,
and the run is shorter. `migration_company.py` measures what other answers notice.
"""

import argparse
import dataclasses
import itertools
import json
import random
import statistics
import sys
import tempfile
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
TOKENS_APART: Final = 16  # from one move to the next, at least
LOOK_TOKENS: Final = 8  # from one look at whether the last move has ended to the next
TOKENS_MAX: Final = 6_000  # of an answer, which is cancelled when it has moved often enough
AROUND: Final = 3  # gaps that a move may have lengthened: its own and those after it
Found = dict[tuple[str, int], list["Move"]]  # by way and context
WAYS: Final = ("live shm", "live tcp", "live nixl", "stop-and-copy tcp", "recompute")


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """A move that was asked for and begun: when, and after how many tokens."""

    tokens: int
    at_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One answer as its client saw it: when each token came, and what the router says of its moves."""

    tokens: tuple[int, ...]
    times_s: tuple[float, ...]
    moves: tuple[pb.MoveRow, ...]
    orders: tuple[Order, ...]

    @property
    def gaps_s(self) -> list[float]:
        """Gap i is what passed before token i + 1."""
        return [after - before for before, after in itertools.pairwise(self.times_s)]

    def order_of(self, move: pb.MoveRow) -> Order:
        """What led to a move: the latest order before its first token elsewhere."""
        return max((order for order in self.orders if order.tokens <= move.at_token), key=lambda order: order.tokens)

    def measured(self, *, is_anew: bool) -> list["Move"]:
        """Every move, its pause beside what the machine does by itself where nothing moves."""
        gaps_s = self.gaps_s
        step_s = statistics.median(gaps_s)
        moving = {gap for move in self.moves for gap in range(self.order_of(move).tokens - 1, move.at_token + AROUND)}
        calm = [at for at in range(2, len(gaps_s) - AROUND) if moving.isdisjoint(range(at, at + AROUND))]
        found = []
        for number, move in enumerate(self.moves):
            at = move.at_token - 1
            beside = min(calm, key=lambda place: abs(place - at), default=None)
            if beside is not None:
                calm.remove(beside)
            found.append(
                Move(
                    is_first=is_anew or number == 0,
                    step_s=step_s,
                    pause_s=max(gaps_s[at : at + AROUND]) - step_s,
                    noise_s=None if beside is None else max(gaps_s[beside : beside + AROUND]) - step_s,
                    frozen_s=move.frozen_s,
                    moved_bytes=move.bytes,
                )
            )
        return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One move as its client had it."""

    is_first: bool
    step_s: float
    pause_s: float
    noise_s: float | None
    frozen_s: float
    moved_bytes: int

    @property
    def steps(self) -> float:
        return self.pause_s / self.step_s


def plan_for(way: str, model: Path, *, share: float) -> FleetPlan:
    """Two workers that move requests in this way, copying for `share` of the time."""
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
        transfer=TransferConfig(transports=(transport,), copy_rounds_max=rounds, checksums="off", copy_share=share),
    )


def request_for(prompt: Sequence[int], *, max_tokens: int) -> pb.GenerateRequest:
    """A greedy answer of exactly `max_tokens` tokens."""
    sampling = pb.SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return pb.GenerateRequest(model=MODEL, prompt_tokens=pb.TokenIds(ids=prompt), sampling=sampling)


def ask(
    channel: grpc.Channel,
    prompt: Sequence[int],
    *,
    moves: int,
    recompute: bool = False,
    apart: int = TOKENS_APART,
    before_order: Callable[[pb.RequestRow], bool] = lambda _: True,
) -> Sample:
    """Stream one answer and ask for moves, each `apart` tokens after the last one, or when `before_order` lets it."""
    request = request_for(prompt, max_tokens=TOKENS_MAX)
    tokens: list[int] = []
    times_s: list[float] = []
    orders: list[Order] = []
    admin = rpc.AdminStub(channel)
    due = apart
    call = rpc.InferenceStub(channel).Generate(request)
    for event in call:
        now_s = time.perf_counter()
        tokens += event.tokens
        times_s += [now_s] * len(event.tokens)
        if len(tokens) < due:
            continue
        (row,) = admin.GetRequests(pb.GetRequestsRequest(request_id=event.request_id)).requests
        due = len(tokens) + LOOK_TOKENS
        if len(row.moves) < len(orders) or (row.moves and len(tokens) < row.moves[-1].at_token + apart):
            continue
        if not before_order(row):
            continue
        if len(orders) == moves:
            break
        admin.Migrate(pb.MigrateRequest(request_id=event.request_id, recompute=recompute))
        orders.append(Order(len(tokens), now_s))
    call.cancel()
    assert len(row.moves) == len(orders) == moves, "it did not move as it was told to"
    return Sample(tuple(tokens), tuple(times_s), tuple(row.moves), tuple(orders))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def report(found: Found) -> None:
    """Rows for each way and context: pauses, in ms and in steps, beside the machine's own hiccups."""
    print(f"\n{'':37}{'':>6} {'pause, ms':>13} {'in steps':>11} {'nothing moved':>14} {'frozen, ms':>11}")
    heads = ("context", "way", "which", "moves", "step", "p50", "p99", "p50", "p99", "p50", "p99", "p50", "p99", "MB")
    print("{:>8} {:18}{:9}{:>6}{:>6}{:>7}{:>7}{:>6}{:>6}{:>7}{:>7}{:>6}{:>6}{:>7}".format(*heads))
    for (way, context), name in itertools.product(found, ("first", "later")):
        moves = [move for move in found[way, context] if move.is_first == (name == "first")]
        if not moves:
            continue
        noises = [move.noise_s / move.step_s for move in moves if move.noise_s is not None] or [0.0]
        step_ms = 1e3 * statistics.median(move.step_s for move in moves)
        print(f"{context:8} {way:18}{name:9}{len(moves):6}{step_ms:6.1f}", end="")
        for values, scale in (
            ([move.pause_s for move in moves], 1e3),
            ([move.steps for move in moves], 1),
            (noises, 1),
            ([move.frozen_s for move in moves], 1e3),
        ):
            print(f"{scale * statistics.median(values):7.1f}{scale * percentile(values, 0.99):7.1f}", end="")
        print(f"{statistics.median(move.moved_bytes for move in moves) / 1e6:7.1f}")


def plot(found: Found, path: Path) -> None:
    """Median pause of first moves over context, in decode steps, as an SVG; what is dearer is cut off."""
    lines = []
    for way in WAYS:
        contexts = sorted(context for other, context in found if other == way)
        firsts = [[move.steps for move in found[way, context] if move.is_first] for context in contexts]
        if contexts:
            lines.append(svg.Line(way, contexts, [statistics.median(steps) for steps in firsts]))
    chart = svg.Chart("Pause seen by the client", "context, tokens", "decode steps", lines, x_is_log=True, y_max=10.0)
    body = svg.draw(chart).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    path.write_text(body.replace(">", f"><style>{PLOT_STYLE}</style>", 1) + "\n")


def measure(arguments: argparse.Namespace, model: Path) -> Iterator[tuple[str, int, list[Move]]]:
    """Every way in turn: one platform at a time, because idle ones would still take a share of the cores."""
    answers: dict[tuple[int, int], tuple[int, ...]] = {}
    for way in arguments.ways:
        plan = plan_for(way, model, share=arguments.share)
        with LocalFleet(plan) as fleet, grpc.insecure_channel(fleet.grpc_address) as channel:
            fleet.wait_ready(lambda _: None)
            print(f"\n{way}:", end="", flush=True)
            if not arguments.anew:
                longest = [9 + n % 500 for n in range(max(arguments.contexts))]
                ask(channel, longest, moves=4)  # the workers meet, and touch their memory
            for context, turn in itertools.product(arguments.contexts, range(arguments.rounds)):
                rng = random.Random(context * 1000 + turn)
                prompt = [rng.randrange(10, 600) for _ in range(context)]
                recompute = way == "recompute"
                before = Anew(fleet) if arguments.anew else lambda _: True
                sample = ask(channel, prompt, moves=arguments.moves, recompute=recompute, before_order=before)
                known = answers.setdefault((context, turn), sample.tokens)
                assert all(a == b for a, b in zip(known, sample.tokens, strict=False)), f"answers differ at {context}"
                print(f" {context}", end="", flush=True)
                yield way, context, sample.measured(is_anew=arguments.anew)


class Anew:
    """Before every move but the first: the worker that does not have the answer is killed and started anew."""

    def __init__(self, fleet: LocalFleet) -> None:
        self._fleet = fleet
        self._moves = 0
        self._is_fresh = True

    def __call__(self, row: pb.RequestRow) -> bool:
        """Whether the next move may begin: the other worker is ready and has nothing cached."""
        if len(row.moves) > self._moves:
            self._moves = len(row.moves)
            self._is_fresh = False
            self._fleet.restart(row.moves[-1].from_worker)
        if not self._is_fresh:
            ready = [worker for worker in self._fleet.workers() if not worker.load.unready]
            self._is_fresh = len(ready) == 2 and all(worker.load.lifecycle == "ready" for worker in ready)
        return self._is_fresh


def load(paths: Sequence[Path]) -> Found:
    """What earlier runs have saved, in their order."""
    found: Found = {}
    for line in itertools.chain.from_iterable(path.read_text().splitlines() for path in paths):
        saved = json.loads(line)
        found.setdefault((saved["way"], saved["context"]), []).extend(Move(**move) for move in saved["moves"])
    return dict(sorted(found.items(), key=lambda item: (item[0][1], WAYS.index(item[0][0]))))


def main() -> int:
    """Measure every way in turn, or report what was saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5, help="answers for each way and context")
    parser.add_argument("--moves", type=int, default=8, help="of every answer")
    parser.add_argument("--anew", action="store_true", help="every move goes to a worker that has just been started")
    parser.add_argument("--share", type=float, default=TransferConfig().copy_share)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--load", type=Path, nargs="+", default=[])
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    found = load(arguments.load)
    if not arguments.load:
        with tempfile.TemporaryDirectory() as folder:
            model = make_model_directory(Path(folder))
            save_random_model(model, family="llama", **SHAPE)
            for way, context, moves in measure(arguments, model):
                found.setdefault((way, context), []).extend(moves)
                if arguments.save is not None:
                    saved = {"way": way, "context": context, "moves": [dataclasses.asdict(move) for move in moves]}
                    with arguments.save.open("a") as file:
                        file.write(json.dumps(saved) + "\n")
    report(found)
    if arguments.plot is not None:
        plot(found, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
