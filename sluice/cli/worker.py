"""`sluice worker`: one worker process from a settings file. Every worker hosts all stages; its role is a state."""

import argparse
import importlib
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol, cast

import uvloop

from sluice.cli import worker_process
from sluice.cli.beside import encoders_beside
from sluice.cli.built_engine import BuiltEngine
from sluice.config import load
from sluice.config.worker import WorkerConfig
from sluice.telemetry import logs, tracing

# oneDNN keeps compiled code for each number of tokens a step can have, 1,024 times in either of two
# caches: up to a gigabyte. It reads these limits when it is first used; 128 cost no time.
ONEDNN_CACHES: Final = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}
HUGE_PAGES: Final = {"THP_MEM_ALLOC_ENABLE": "1"}  # of torch: touching new memory is several times cheaper


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice worker`."""
    parser.add_argument("--config", required=True, type=Path, help="YAML file; see docs/reference/config.md")
    parser.add_argument("--name", help="the worker's name, instead of the file's `worker`")
    parser.add_argument("--advertise-host", help="as peers reach it, instead of the file's `advertise_host`")
    parser.add_argument("--emulate", metavar="SHAPE", help="no model: steps last as --gpu would need for this shape")
    parser.add_argument("--gpu", metavar="CLASS", help="the GPU's class, instead of the file's `gpu.gpu_class`")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    own = {"worker": arguments.name, "advertise_host": arguments.advertise_host, "emulate": arguments.emulate}
    over = {field: value for field, value in own.items() if value is not None}
    config = load.load(arguments.config, WorkerConfig, over=over)
    if arguments.gpu:
        config = replace(config, gpu=replace(config.gpu, gpu_class=arguments.gpu))
    load.set_default_environment(ONEDNN_CACHES | HUGE_PAGES)
    logs.configure_logs(
        log_format=logs.LogFormat(config.telemetry.log_format),
        level=config.telemetry.log_level,
        service="sluice-worker",
        worker=config.worker,
    )
    tracing.configure(
        exporter=tracing.Exporter(config.telemetry.traces),
        service="sluice-worker",
        endpoint_or_path=config.telemetry.traces_to,
        attributes={"sluice.worker": config.worker},
    )
    try:
        configs = (config, *encoders_beside(config))
        uvloop.run(worker_process.serve(configs, lambda each: _builder(each).build_engine(each)))
        return 0
    finally:
        tracing.shutdown()


class _Builder(Protocol):
    """What makes a worker's engine."""

    def build_engine(self, config: WorkerConfig) -> BuiltEngine: ...


def _builder(config: WorkerConfig) -> _Builder:
    """Only the chosen one is imported: an emulated worker needs no torch."""
    name = "emulated_engine" if config.emulate else "vision_engine" if config.role == "encode" else "model_engine"
    return cast("_Builder", importlib.import_module(f"sluice.cli.{name}"))
