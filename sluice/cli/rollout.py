"""`sluice rollout plan`: the steps by which every worker of a ModelService would be replaced. Asks no cluster."""

import argparse
from pathlib import Path

import yaml
from rich.console import Console

from sluice.cli.tables import Column, show
from sluice.domain.role import Role
from sluice.errors import ConfigError
from sluice.operator.accept import parse
from sluice.operator.pool_plan import Rules
from sluice.operator.resources.model_service import ModelServiceSpec
from sluice.operator.rollout_preview import preview


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice rollout`."""
    parser.add_argument("what", choices=["plan"], help="print the steps")
    parser.add_argument("-f", "--file", type=Path, help="a ModelService's YAML; its pools' `min` are the sizes")
    parser.add_argument("--prefill", type=int, default=1, metavar="N", help="without a file: prefill workers (1)")
    parser.add_argument("--decode", type=int, default=1, metavar="N", help="without a file: decode workers (1)")
    parser.add_argument("--mixed", type=int, default=0, metavar="N", help="without a file: mixed workers (0)")
    parser.add_argument("--surge", type=int, choices=[0, 1], default=0, help="extra workers a pool may have meanwhile")


def run(arguments: argparse.Namespace) -> int:
    """Print one line a step."""
    if arguments.file is None:
        sizes = {Role.PREFILL: arguments.prefill, Role.DECODE: arguments.decode, Role.MIXED: arguments.mixed}
        pools = [(role.value, role, size) for role, size in sizes.items() if size > 0]
        surge = arguments.surge
    else:
        spec = read_spec(arguments.file)
        pools = [
            (name, Role(role), pool.replicas.min)
            for name, pool in spec.pools.items()
            if (role := pool.role_as(name)) is not None
        ]
        surge = max(arguments.surge, spec.rollout.surge)
    steps = list(preview(pools, Rules(surge=surge)))
    lines = [(str(step.number), does, step) for step in steps for does in step.does]
    columns = [
        Column("STEP", [number for number, _, _ in lines]),
        Column("PREFILL READY", [str(step.ready["prefill"]) for _, _, step in lines]),
        Column("DECODE READY", [str(step.ready["decode"]) for _, _, step in lines]),
        Column("PODS", [str(step.places) for _, _, step in lines]),
        Column("DOES", [does for _, does, _ in lines]),
    ]
    show(columns, Console())
    return 0


def read_spec(path: Path) -> ModelServiceSpec:
    """The spec of the ModelService in a file. Raises ConfigError or RefusedSpecError."""
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error}); give a ModelService's file") from error
    for body in documents:
        if isinstance(body, dict) and body.get("kind") == "ModelService":
            return parse(ModelServiceSpec, body.get("spec") or {})
    raise ConfigError(f"{path}: holds no ModelService; write `kind: ModelService`")
