"""`sluice router`: one router process from a settings file."""

import argparse
from pathlib import Path

import uvloop

from sluice.config import load
from sluice.config.router import RouterConfig
from sluice.router import process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice router`."""
    parser.add_argument("--config", required=True, type=Path, help="YAML file; see docs/reference/config.md")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    uvloop.run(process.run(load.load(arguments.config, RouterConfig)))
    return 0
