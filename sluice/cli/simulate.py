"""`sluice simulate`: replay a trace on a simulated fleet under one policy, or several side by side."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sluice.capacity.catalogue import parse_prices
from sluice.capacity.model_shape import shape_of
from sluice.capacity.vision_shape import vision_shape
from sluice.cli.objectives import parse_objective
from sluice.cli.tables import Column, show
from sluice.errors import ConfigError
from sluice.policy.registry import POLICIES, make_policy
from sluice.simulator.comparison import Interval, interval, paired
from sluice.simulator.encodes import EncodeRules
from sluice.simulator.instance_spec import InstanceSpec, StepOrder
from sluice.simulator.pool_spec import EngineSettings, PoolCount, make_specs, parse_pools
from sluice.simulator.report import ReportRun, render
from sluice.simulator.run_options import Addition, Failure, Removal, RunOptions
from sluice.simulator.step_source import StepSource
from sluice.simulator.study import Study
from sluice.simulator.summary import Goal, Summary, parse_goals, summarise
from sluice.simulator.traces.source import REQUESTS_MAX, read_trace
from sluice.simulator.workload import Workload

SEEDS_TO_COMPARE: Final = 3
SEEDS_MAX: Final = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice simulate`."""
    add = parser.add_argument
    add("--trace", default="synthetic:isl=1024,osl=256", help="a trace file, a ServeGen folder, or synthetic:isl=…")
    add("--pools", default="H100:4m", help="the fleet, as in H100:2p+4d,A100x2:1m (%(default)s); as `sluice up --gpu`")
    add("--model", default="Llama-3.1-8B", help="shape of the served model (%(default)s)")
    add("--vision", default="", help="its vision tower, as in Qwen2-VL: images are encoded, by e, p and m replicas")
    add("--image-parts", type=int, default=0, metavar="TOKENS", help="larger images are encoded in parts (0: whole)")
    add(
        "--images-seen",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of images, those kept from before (%(default)s)",
    )
    add("--policy", default="joint", help=f"one of {', '.join(POLICIES)} (%(default)s)")
    add("--compare", metavar="A,B,…", help="several policies on the same requests, the first against the others")
    add("--slo", default="ttft=1,tpot=0.05,itl=0.2", help="objectives in seconds (%(default)s)")
    add("--goal", default="ttft,tpot,deadline,itl", help="what goodput asks of a request (%(default)s)")
    add("--rate", type=float, help="requests per second (default: the trace's own)")
    add("--rates", help="more rates for the report's curves, as in 2,4,8")
    add("--find", type=float, metavar="SHARE", help="search the highest rate that attains this share, as in 0.9")
    add("--requests", type=int, default=0, help="at most so many requests (default: all)")
    add("--duration", type=float, help="only the trace's first seconds")
    add("--seed", type=int, default=0, help="of the first draw (%(default)s)")
    add("--seeds", type=int, help=f"draws (default 1; {SEEDS_TO_COMPARE} with --compare)")
    add("--profile", action="append", default=[], metavar="CLASS=KIND:PATH", help="measured step times of a class")
    add("--prices", default="", help="dollars per hour and GPU, as in H100=7.5,L4=0.7")
    add("--step-tokens", type=int, default=2048, help="token budget of a step (%(default)s)")
    add("--batch", type=int, default=256, help="sequences in a step (%(default)s)")
    add(
        "--steps",
        choices=[order.value for order in StepOrder],
        default=StepOrder.PACED.value,
        help="paced: chunks of prompts that leave decodes their TPOT, as Sluice's workers do; "
        "chunked: --step-tokens in every step, first come first served; prefill-first: whole prompts before decodes",
    )
    add("--stale", type=float, default=0.0, metavar="S", help="seconds between an instance's reports (0: always known)")
    add("--fail", action="append", default=[], metavar="N@S", help="lose instance N at S seconds, as in 0@30")
    add("--add", action="append", default=[], metavar="POOL@S", help="ask for replicas at S seconds, as in H100:2d@60")
    add("--remove", action="append", default=[], metavar="N@S", help="drain instance N from S seconds on")
    add("--report", metavar="FILE", help="write an HTML report")
    add("--json", action="store_true", help="print the figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Replay, print, report."""
    console = Console()
    study = _study(arguments)
    policies = _policies(arguments)
    count = arguments.seeds or (SEEDS_TO_COMPARE if arguments.compare else 1)
    if not 0 < count <= SEEDS_MAX:
        raise ConfigError(f"--seeds: is {count}; use 1 to {SEEDS_MAX}")
    runs = [_replay(study, policy, arguments, count, console) for policy in policies]
    differences = _differences(runs) if count > 1 else {}
    if arguments.json:
        print(json.dumps({run.policy: [_plain(each) for each in run.by_seed] for run in runs}))
    else:
        _print(runs, differences, console)
        if arguments.find:
            _print_highest(study, policies, arguments, console)
    if arguments.report:
        command = "sluice simulate " + shlex.join(sys.argv[2:])
        title = f"{runs[0].result.workload.name} on {arguments.pools}"
        page = render(title=title, command=command, runs=runs, differences=differences)
        Path(arguments.report).write_text(page, encoding="utf-8")
        console.print(f"report: {arguments.report}", highlight=False)
    return 0


def _encode_rules(arguments: argparse.Namespace) -> EncodeRules:
    """Raises ConfigError for a share that is none, or a negative size."""
    if not 0.0 <= arguments.images_seen <= 1.0:
        raise ConfigError(f"--images-seen: is {arguments.images_seen:g}; use a share from 0 to 1")
    if arguments.image_parts < 0:
        raise ConfigError(f"--image-parts: is {arguments.image_parts}; use 0 or more embeddings")
    return EncodeRules(part_tokens=arguments.image_parts, seen_share=arguments.images_seen)


def _study(arguments: argparse.Namespace) -> Study:
    settings = EngineSettings(
        step_tokens_max=arguments.step_tokens,
        batch_sequences_max=arguments.batch,
        step_order=StepOrder(arguments.steps),
        vision=vision_shape(arguments.vision) if arguments.vision else None,
    )
    if not 0 < arguments.batch < arguments.step_tokens:
        raise ConfigError(f"--batch: is {arguments.batch}; use 1 to one below --step-tokens ({arguments.step_tokens})")
    shape, source, prices = shape_of(arguments.model), StepSource(arguments.profile), parse_prices(arguments.prices)

    def replicas(pools: Sequence[PoolCount]) -> list[InstanceSpec]:
        return make_specs(pools, shape=shape, source=source, settings=settings, prices=prices)

    specs = replicas(parse_pools(arguments.pools))
    options = RunOptions(
        objective=parse_objective(arguments.slo),
        stale_s=arguments.stale,
        encode=_encode_rules(arguments),
        failures=tuple(Failure(slot=slot, at_s=at_s) for slot, at_s in _moments("--fail", arguments.fail, len(specs))),
        removals=tuple(
            Removal(slot=slot, at_s=at_s) for slot, at_s in _moments("--remove", arguments.remove, len(specs))
        ),
        additions=tuple(
            Addition(spec=spec, at_s=at_s)
            for pool, at_s in map(_addition, arguments.add)
            for spec in replicas(parse_pools(pool, is_whole=False))
        ),
    )
    first = arguments.seed

    def workload(seed: int) -> Workload:
        return _workload(arguments, first + seed)

    return Study(specs=specs, workload=workload, policy=make_policy, options=options, goals=parse_goals(arguments.goal))


def _workload(arguments: argparse.Namespace, seed: int) -> Workload:
    """A draw: made-up and generated traces are drawn anew, recorded ones have their arrivals rearranged."""
    trace = read_trace(arguments.trace, rate=arguments.rate, seed=seed, requests_max=arguments.requests or REQUESTS_MAX)
    if arguments.duration:
        trace = trace.within(arguments.duration)
    is_recorded = Path(arguments.trace).expanduser().is_file()
    return trace.resampled(seed) if is_recorded else trace


def _policies(arguments: argparse.Namespace) -> list[str]:
    names = arguments.compare.split(",") if arguments.compare else [arguments.policy]
    for name in names:
        make_policy(name.strip())
    return [name.strip() for name in names]


def _moments(option: str, texts: Sequence[str], instances: int) -> list[tuple[int, float]]:
    """`0@30` as (instance, seconds)."""
    moments = []
    for text in texts:
        slot, _, at = text.partition("@")
        try:
            moments.append((int(slot), float(at)))
        except ValueError as error:
            raise ConfigError(f"{option}: '{text}' is no N@S, as in 0@30") from error
        if not 0 <= moments[-1][0] < instances:
            raise ConfigError(f"{option}: there is no instance {slot}; they are 0 to {instances - 1}")
    return moments


def _addition(text: str) -> tuple[str, float]:
    pool, _, at = text.rpartition("@")
    try:
        return pool, float(at)
    except ValueError as error:
        raise ConfigError(f"--add: '{text}' is no POOL@S, as in H100:2d@60") from error


def _replay(study: Study, policy: str, arguments: argparse.Namespace, seeds: int, console: Console) -> ReportRun:
    columns = (TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.percentage:.0f}%"))
    hidden = not console.is_terminal or arguments.json
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=hidden) as progress:
        results = []
        for seed in range(seeds):
            task = progress.add_task(f"{policy}, seed {arguments.seed + seed}", total=len(study.workload(seed)))

            def on_progress(arrived: int, task: int = task) -> None:
                progress.update(task, completed=arrived)  # type: ignore[arg-type]

            results.append(study.run(policy, seed=seed, on_progress=on_progress))
    by_seed = [summarise(result, study.goals) for result in results]
    over_rate = [study.summary(policy, seed=0, rate=rate) for rate in _rates(arguments)]
    return ReportRun(policy=policy, result=results[0], summary=by_seed[0], by_seed=by_seed, over_rate=over_rate)


def _rates(arguments: argparse.Namespace) -> list[float]:
    try:
        return [float(part) for part in (arguments.rates or "").split(",") if part]
    except ValueError as error:
        raise ConfigError(f"--rates: '{arguments.rates}' are no numbers; write 2,4,8") from error


def _differences(runs: list[ReportRun]) -> dict[str, Interval]:
    ours = [each.goodput for each in runs[0].by_seed]
    return {run.policy: paired(ours, [each.goodput for each in run.by_seed]) for run in runs[1:]}


def _print(runs: list[ReportRun], differences: dict[str, Interval], console: Console) -> None:
    def over_seeds(run: ReportRun, figure: str) -> str:
        return str(interval([getattr(each, figure) for each in run.by_seed]))

    def attained(run: ReportRun, goal: Goal) -> str:
        return f"{interval([each.attained[goal] for each in run.by_seed]).mean:.2%}"

    columns = [Column("POLICY", [run.policy for run in runs])]
    columns += [Column(goal.value.upper(), [attained(run, goal) for run in runs]) for goal in Goal]
    columns += [
        Column("ALL", [f"{interval([s.attained_all for s in run.by_seed]).mean:.2%}" for run in runs]),
        Column("GOODPUT/S", [over_seeds(run, "goodput") for run in runs]),
        Column("TTFT P50 P90", [f"{run.summary.ttft_p50_s:.3f} {run.summary.ttft_p90_s:.3f} s" for run in runs], 2),
        Column("TPOT P50", [f"{run.summary.tpot_p50_s * 1e3:.1f} ms" for run in runs], 3),
        Column("ITL P99", [f"{run.summary.itl_p99_s * 1e3:.1f} ms" for run in runs], 4),
        Column("$/1M", [over_seeds(run, "dollars_per_million") for run in runs]),
        Column("GPU BUSY", [", ".join(f"{k} {v:.0%}" for k, v in run.summary.utilisation.items()) for run in runs], 5),
    ]
    show(columns, console)
    for name, difference in differences.items():
        verdict = "better" if difference.is_positive else "worse" if difference.mean + difference.half < 0 else "equal"
        console.print(f"{runs[0].policy} - {name}: {difference} requests/s ({verdict})", highlight=False)


def _print_highest(study: Study, policies: list[str], arguments: argparse.Namespace, console: Console) -> None:
    if not 0.0 < arguments.find <= 1.0:
        raise ConfigError(f"--find: is {arguments.find}; use a share above 0 to 1, as in 0.9")
    own = study.workload(0).rate
    for policy in policies:
        rate = study.rate_at(policy, seed=0, share=arguments.find, low=own / 16, high=own)
        console.print(f"{policy}: {arguments.find:.0%} attained up to {rate:.3g} requests/s", highlight=False)


def _plain(summary: Summary) -> dict[str, object]:
    figures = asdict(summary)
    figures["attained"] = {goal.value: share for goal, share in summary.attained.items()}
    return figures
