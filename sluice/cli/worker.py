"""`sluice worker`: one worker process from a settings file. Every worker hosts all stages; its role is a state."""

import argparse
from pathlib import Path

import uvloop

from sluice.cli import worker_process
from sluice.config import load
from sluice.config.worker import WorkerConfig
from sluice.telemetry import logs, tracing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice worker`."""
    parser.add_argument("--config", required=True, type=Path, help="YAML file; see docs/reference/config.md")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    config = load.load(arguments.config, WorkerConfig)
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
        built = worker_process.build_engine(config)
        uvloop.run(worker_process.serve(config, built))
        return 0
    finally:
        tracing.shutdown()
