"""`sluice operator`: one operator process from a settings file, as the chart starts it."""

import argparse
from pathlib import Path

import kopf

from sluice.config import load
from sluice.config.operator import OperatorConfig
from sluice.operator import handlers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice operator`."""
    parser.add_argument("--config", required=True, type=Path, help="YAML file; see docs/reference/config.md")


def run(arguments: argparse.Namespace) -> int:
    """Watch and act until SIGTERM or SIGINT."""
    config = load.load(arguments.config, OperatorConfig)
    assert handlers.on_service, "importing the handlers registers them"
    kopf.run(
        standalone=True,
        clusterwide=not config.namespaces,
        namespaces=list(config.namespaces),
        liveness_endpoint=f"http://0.0.0.0:{config.health_port}/healthz",
        memo=kopf.Memo(config=config),
    )
    return 0
