"""`sluice plan`: the cheapest GPUs for a trace and its objectives, confirmed by replay.

Brings together what knows nothing of each other: a trace, GPU classes with their curves, the
planner and the simulator. Next: `plan_arguments.py` for the options' words, `sluice/planner/verification.py`
for the rounds, `plan_output.py` for what is printed.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from rich.console import Console

from sluice.capacity.encode_curve import datasheet_curve
from sluice.capacity.gpu_class import GpuClass
from sluice.capacity.model_shape import ModelShape, shape_of
from sluice.capacity.roofline import ACTIVATION_BYTES, MEMORY_SHARE, kv_tokens
from sluice.capacity.vision_shape import VisionShape, vision_shape
from sluice.cli.objectives import parse_objective
from sluice.cli.plan_arguments import Supply, parse_gpus, parse_links
from sluice.cli.plan_output import Answer, as_json, as_model_service, show_answer
from sluice.cli.plan_replay import Replay
from sluice.errors import ConfigError
from sluice.planner.plan import Offer, Plan, make_plan, rate_share_max
from sluice.planner.problem import Headroom
from sluice.planner.replica_kind import ReplicaKind
from sluice.planner.sensitivity import reliefs, rivals, simpler
from sluice.planner.solver import Outcome
from sluice.planner.throughput import Target
from sluice.planner.verification import ROUNDS_MAX, Round, chosen, undercut, verify
from sluice.planner.workload import Workload, histogram
from sluice.policy.registry import POLICIES, make_policy
from sluice.simulator.step_source import StepSource
from sluice.simulator.traces.source import read_trace
from sluice.simulator.workload import Workload as Trace

DEGREES: Final = (1, 2, 4, 8)
SEEDS_MAX: Final = 20
EXAMPLE: Final = "H100=7.5/h:8,A100=3.7/h:16,L4=0.7/h:32"
REPLAYED_S: Final = 120.0
REQUESTS_MIN: Final = 1000
REQUESTS_MAX: Final = 50_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice plan`."""
    parser.add_argument("--slo", required=True, metavar="ttft=1s,tpot=50ms", help="what every request shall meet")
    parser.add_argument("--gpus", required=True, metavar=EXAMPLE, help="classes, dollars an hour, how many there are")
    parser.add_argument(
        "--trace",
        required=True,
        metavar="FILE|synthetic:isl=1024,osl=256",
        help="what arrives, as in `sluice simulate`",
    )
    parser.add_argument("--rate", type=float, default=None, help="requests per second (the trace's own)")
    parser.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="CLASS=KIND:PATH",
        help="measured step times, as in `simulate`",
    )
    parser.add_argument("--model", default="Llama-3.1-8B", help="a model shape by name (%(default)s)")
    parser.add_argument("--vision", default="", help="its vision tower, as in Qwen2-VL: plans for encoding images too")
    parser.add_argument("--attainment", type=float, default=0.99, help="share of requests in time (%(default)s)")
    parser.add_argument("--links", default="", metavar="H100:L4=5GB/s", help="bounds on KV between classes")
    parser.add_argument(
        "--tensor-parallel-max", type=int, default=1, help="GPUs a replica may span: 1, 2, 4 or 8 (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS_MAX, help="replays at most; 0: none (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="orders of arrival replayed, averaged (%(default)s)")
    parser.add_argument(
        "--requests",
        type=int,
        help=f"of the trace, replayed (what arrives in {REPLAYED_S:.0f} s; at least {REQUESTS_MIN})",
    )
    parser.add_argument("--policy", default="joint", choices=sorted(POLICIES), help="placement (%(default)s)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--yaml", action="store_true", help="print a ModelService")


def run(arguments: argparse.Namespace) -> int:
    """Plan, replay, print; 1 when the promise could not be confirmed."""
    trace = read_trace(arguments.trace, rate=arguments.rate, seed=0)
    answer = answer_for(arguments, trace)
    if arguments.json:
        print(json.dumps(as_json(answer), indent=2))
    elif arguments.yaml:
        print(as_model_service(answer), end="")
    else:
        show_answer(answer, Console())
    return 0 if answer.confirmed is None or answer.confirmed.is_kept else 1


def answer_for(arguments: argparse.Namespace, trace: Trace) -> Answer:
    """Everything `sluice plan` says of a trace. Raises ConfigError for a bad option and where no fleet is enough."""
    objective = parse_objective(arguments.slo)
    supply = parse_gpus(arguments.gpus)
    shape = shape_of(arguments.model)
    _check(arguments)
    sight = sight_of(arguments.vision, trace)
    target = Target(ttft_s=objective.slo.ttft_s, tpot_s=objective.slo.tpot_s, attainment=arguments.attainment)
    offer = Offer(
        kinds=kinds_of(
            supply, shape, StepSource(arguments.profile), degree_max=arguments.tensor_parallel_max, sight=sight
        ),
        gpus_max=supply.gpus_max,
        trunks=parse_links(arguments.links, supply),
    )
    workload = workload_of(trace, sees=sight is not None)
    replay = Replay(
        trace=trace.first(arguments.requests or replayed(trace.rate)).at_rate(trace.rate),
        seeds=range(arguments.seeds),
        policy=partial(make_policy, arguments.policy),
        objective=objective,
    )
    plan, rounds = _planned(arguments, replay, workload, offer, target)
    if plan.outcome is Outcome.IMPOSSIBLE:
        raise ConfigError(_why_not(workload, offer, target, plan))
    return Answer(
        model=shape.name,
        trace=trace.name,
        plan=plan,
        rounds=rounds,
        reliefs=reliefs(plan),
        rivals=rivals(plan, offer),
    )


def replayed(rate: float) -> int:
    """How many requests of a trace to replay: enough time for a queue to grow where there is one."""
    return min(REQUESTS_MAX, max(REQUESTS_MIN, round(rate * REPLAYED_S)))


class Sight(NamedTuple):
    """A vision tower, and how many embeddings the trace's images have on average."""

    tower: VisionShape
    image_tokens: int


def sight_of(tower: str, trace: Trace) -> Sight | None:
    """The tower by name; None for none. Raises ConfigError for one that is unknown, or a trace without images."""
    if not tower:
        return None
    images = int(trace.images.sum())
    if not images:
        raise ConfigError(f"--vision: trace {trace.name} has no images; leave it out, or give one that has")
    return Sight(vision_shape(tower), max(1, int(trace.image_tokens.sum()) // images))


def kinds_of(
    supply: Supply, shape: ModelShape, source: StepSource, *, degree_max: int, sight: Sight | None = None
) -> list[ReplicaKind]:
    """Every class at every degree that holds the model, or its tower alone. ConfigError where none holds it."""
    kinds = [
        _kind(gpu, shape, source, degree, sight)
        for gpu in supply.classes
        for degree in DEGREES
        if degree <= degree_max and (kv_tokens(gpu, shape, tensor_parallel=degree) > 0 or (degree == 1 and sight))
    ]
    if not any(kind.kv_tokens for kind in kinds):
        raise ConfigError(
            f"--gpus: no class holds the {shape.weight_bytes / 1e9:.0f} GB of {shape.name} on {degree_max} GPUs; "
            "raise --tensor-parallel-max or name larger GPUs"
        )
    return kinds


def workload_of(trace: Trace, *, sees: bool = False) -> Workload:
    """The trace's sizes in buckets, at its rate. Image tokens count as prompt; images count where `sees`."""
    images = trace.images.tolist() if sees else ()
    return histogram(trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), rate_per_s=trace.rate, images=images)


def _kind(gpu: GpuClass, shape: ModelShape, source: StepSource, degree: int, sight: Sight | None) -> ReplicaKind:
    """With a tower, what it takes of the KV where it is; images are shared out over a replica's GPUs."""
    tokens = kv_tokens(gpu, shape, tensor_parallel=degree)
    curve, image_s, tower_tokens = None, None, 0
    if sight is not None:
        tower_tokens = sight.tower.weight_bytes // shape.kv_token_bytes
        if sight.tower.weight_bytes <= MEMORY_SHARE * gpu.memory_bytes - ACTIVATION_BYTES:
            curve = datasheet_curve(gpu, sight.tower).times(1 / degree)
            image_s = curve.encode_s([sight.image_tokens])
    return ReplicaKind(
        gpu=gpu,
        tensor_parallel=degree,
        model=source.model(gpu, shape, tensor_parallel=degree),
        kv_tokens=tokens,
        kv_token_bytes=shape.kv_token_bytes,
        tower_tokens=tower_tokens,
        encode_image_s=image_s,
        encode_curve=curve,
    )


def _planned(
    arguments: argparse.Namespace, replay: Replay, workload: Workload, offer: Offer, target: Target
) -> tuple[Plan, Sequence[Round]]:
    """The plan and the rounds that confirmed it."""
    if arguments.rounds == 0:
        return make_plan(workload, offer, target), ()
    found = confirmed(replay, workload, offer, target, rounds_max=arguments.rounds)
    return found or (make_plan(workload, offer, target), ())


def confirmed(
    replay: Replay, workload: Workload, offer: Offer, target: Target, *, rounds_max: int = ROUNDS_MAX
) -> tuple[Plan, Sequence[Round]] | None:
    """The cheapest plan that kept its promise, simpler fleets tried too, and all rounds; None if there is no plan.

    Where none kept its promise, the plan that attained most.
    """

    def planner(each: Offer) -> Callable[[Headroom], Plan]:
        return lambda headroom: make_plan(workload, each, target, headroom=headroom)

    rounds = verify(planner(offer), replay, rounds_max=rounds_max)
    best = chosen(rounds)
    for each in simpler(offer).values():
        if best is not None and best.is_kept:
            rounds += undercut(planner(each), replay, best, rounds_max=rounds_max)
            best = chosen(rounds)
    return (best.plan, rounds) if best else None


def _why_not(workload: Workload, offer: Offer, target: Target, plan: Plan) -> str:
    if plan.unreachable_share >= 1:
        return (
            "--slo: no class on offer meets these objectives for any request, even alone; "
            "loosen ttft or tpot, name faster GPUs, or raise --tensor-parallel-max"
        )
    share = rate_share_max(workload, offer, target)
    return (
        f"--gpus: all of them carry about {share:.0%} of {workload.rate_per_s:.2f} requests/s within these objectives; "
        "raise a count or loosen --slo"
    )


def _check(arguments: argparse.Namespace) -> None:
    bounds: Mapping[str, tuple[int, int]] = {
        "rounds": (0, ROUNDS_MAX),
        "seeds": (1, SEEDS_MAX),
        "requests": (1, 1_000_000),
    }
    for name, (low, high) in bounds.items():
        value = getattr(arguments, name)
        if value is not None and not low <= value <= high:
            raise ConfigError(f"--{name}: is {value}; give {low} to {high}")
    if arguments.tensor_parallel_max not in DEGREES:
        raise ConfigError(f"--tensor-parallel-max: is {arguments.tensor_parallel_max}; give one of {DEGREES}")
