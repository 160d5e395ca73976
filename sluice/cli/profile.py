"""`sluice profile`: measure what an engine's steps take, and store samples and curve as JSON.

Of this machine: builds the engine as `sluice worker` would (a model, or an emulated GPU) and drives it through a
grid of loads for a while. With `--worker`, of a running platform's worker: from the steps it reports while it serves.
Fits the curve to one part of the steps and says how far it is off on the others. A worker starts
from the file with `gpu.profile`. Next: `engine_drive.py`, `worker_steps.py`.
"""

import argparse
import contextlib
import importlib
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

import grpc
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from sluice.capacity import profile_file
from sluice.capacity.curve_fit import fit
from sluice.capacity.profile_file import Profile
from sluice.capacity.profile_grid import Trial
from sluice.cli import worker_steps
from sluice.cli.admin_call import add_router_argument, admin
from sluice.cli.built_engine import BuiltEngine
from sluice.cli.engine_drive import Sample, drive, trials_for
from sluice.cli.fleet_options import DEMO_MODEL
from sluice.config.worker import EngineConfig, GpuConfig, WorkerConfig
from sluice.errors import ConfigError
from sluice.wire.gen import sluice_pb2 as pb

SECONDS_MAX: Final = 3600.0
HELD_OUT_EVERY: Final = 5  # of five steps one is not fitted to, but predicted
STEPS_MIN: Final = 20


class _Builder(Protocol):
    def build_engine(self, config: WorkerConfig) -> BuiltEngine: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice profile`."""
    parser.add_argument(
        "--worker", default="", metavar="NAME", help="measure this worker of a running platform instead"
    )
    add_router_argument(parser)
    parser.add_argument("--load", action="store_true", help="with --worker: send it requests of all sizes meanwhile")
    parser.add_argument("--model", default=str(DEMO_MODEL), help="directory of a model (default: the demo model)")
    parser.add_argument("--emulate", default="", metavar="SHAPE", help="an emulated GPU instead, serving this shape")
    parser.add_argument("--gpu", default="", metavar="CLASS", help="the GPU's class; default: by the device's name")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs of the replica (%(default)s)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where the engine runs")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as torch chooses")
    parser.add_argument("--kv-memory-mib", type=int, default=256, help="KV pool (%(default)s)")
    parser.add_argument("--step-tokens", type=int, default=512, help="token budget of a step (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="most sequences in a batch (%(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to measure (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("profile.json"), help="the file to write (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Measure, fit, store, say what came out."""
    if not 0.0 < arguments.seconds <= SECONDS_MAX:
        raise ConfigError(f"--seconds: is {arguments.seconds:g}; use more than 0, at most {SECONDS_MAX:.0f}")
    console = Console()
    if arguments.worker:
        row, samples = _watched(arguments, console)
        facts = row.info.gpu_class or row.info.device, row.info.model, row.info.tensor_parallel
    else:
        facts, samples = _driven(arguments, console)
    fitted = [sample for at, sample in enumerate(samples) if at % HELD_OUT_EVERY]
    held_out = samples[::HELD_OUT_EVERY]
    gpu_class, model, degree = facts
    profile = Profile(
        gpu_class=gpu_class, model=model, tensor_parallel=degree, curve=fit(fitted), samples=tuple(samples)
    )
    profile_file.write(arguments.out, profile)
    for line in summary(profile, held_out):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"written to {arguments.out}; a worker starts from it with gpu.profile", soft_wrap=True)
    return 0


def _watched(arguments: argparse.Namespace, console: Console) -> tuple[pb.WorkerRow, list[Sample]]:
    """The steps a running worker reports. Raises ConfigError for too few."""
    samples: list[Sample] = []
    with admin(arguments.grpc) as stub, grpc.insecure_channel(arguments.grpc) as channel:
        row = worker_steps.find(stub, arguments.worker)
        loaded = worker_steps.load(channel, row) if arguments.load else contextlib.nullcontext()
        with loaded, console.status(f"watching {arguments.worker} for {arguments.seconds:g} s …"):
            samples += worker_steps.watch(stub, arguments.worker, seconds=arguments.seconds)
    if len(samples) < STEPS_MIN:
        raise ConfigError(f"--worker: it reported {len(samples)} steps; send it requests meanwhile, or use --load")
    return row, samples


def _driven(arguments: argparse.Namespace, console: Console) -> tuple[tuple[str, str, int], list[Sample]]:
    """The steps of an engine built here: its GPU class, its model, its tensor parallelism, and what was measured."""
    config = _config(arguments)
    name = "emulated_engine" if config.emulate else "model_engine"
    built = cast("_Builder", importlib.import_module(f"sluice.cli.{name}")).build_engine(config)
    try:
        samples = _measure(built, seconds=arguments.seconds, console=console)
    finally:
        if built.memory is not None:
            built.memory.close()
    return (built.standpoint.gpu_class, built.facts.name, config.gpu.tensor_parallel), samples


def summary(profile: Profile, held_out: Sequence[Sample]) -> list[str]:
    """What was learned, in lines."""
    curve = profile.curve
    errors = sorted(abs(curve.step_s(shape) / seconds - 1.0) for shape, seconds in held_out)
    middle, most = errors[len(errors) // 2], errors[int(0.9 * (len(errors) - 1))]
    return [
        f"{profile.gpu_class}, {profile.model}: {len(profile.samples)} steps",
        f"  a step           {curve.base_s * 1e3:10.3f} ms",
        f"  a prompt token   {curve.prefill_token_s * 1e6:10.3f} us",
        f"  a pair           {curve.pair_s * 1e9:10.3f} ns",
        f"  a decode         {curve.decode_s * 1e6:10.3f} us",
        f"  a context token  {curve.context_token_s * 1e9:10.3f} ns",
        f"  of {len(held_out)} steps not fitted to, half are within {middle:.1%} and nine of ten within {most:.1%}",
    ]


def _measure(built: BuiltEngine, *, seconds: float, console: Console) -> list[Sample]:
    """Trials in random order until the time is up, after a few to warm up. Raises ConfigError for too few steps."""
    rng = random.Random(0)  # noqa: S311 - prompts need no secrecy
    plan = trials_for(built.engine)
    if not plan:
        raise ConfigError("--kv-memory-mib: holds no trial; give the pool more memory")
    for _ in drive(built.engine, plan[:3], rng):
        pass
    samples: list[Sample] = []
    columns = (TextColumn("measuring"), BarColumn(30), TextColumn("{task.fields[steps]} steps"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=seconds, steps=0)
        started_s = time.monotonic()
        for sample in drive(built.engine, _rounds(plan, rng, until_s=started_s + seconds), rng):
            samples.append(sample)
            progress.update(task, completed=time.monotonic() - started_s, steps=len(samples))
    if len(samples) < STEPS_MIN:
        raise ConfigError(f"--seconds: only {len(samples)} steps were measured; give it more time")
    return samples


def _rounds(plan: Sequence[Trial], rng: random.Random, *, until_s: float) -> Iterator[Trial]:
    """All trials in a new random order each time, and no new one after `until_s`."""
    while True:
        for trial in rng.sample(plan, len(plan)):
            if time.monotonic() >= until_s:
                return
            yield trial


def _config(arguments: argparse.Namespace) -> WorkerConfig:
    return WorkerConfig(
        worker="profile",
        model_path=arguments.model,
        emulate=arguments.emulate,
        gpu=GpuConfig(gpu_class=arguments.gpu, tensor_parallel=arguments.tensor_parallel),
        engine=EngineConfig(
            device=arguments.device,
            threads=arguments.threads,
            kv_memory_mib=arguments.kv_memory_mib,
            batch_sequences_max=arguments.batch,
            step_tokens_max=arguments.step_tokens,
        ),
    )
