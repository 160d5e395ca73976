"""`sluice up`: a whole platform on this machine, until Ctrl-C."""

import argparse
import contextlib
import json
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sluice.cli.fleet_options import add_fleet_arguments, plan_from
from sluice.cli.local_fleet import FleetPlan, LocalFleet

WATCH_EVERY_S: Final = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice up`."""
    add_fleet_arguments(parser, prefill=1, decode=1)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port of the OpenAI API (%(default)s)")
    parser.add_argument("--grpc-port", type=int, default=8001, help="port of the gRPC API (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Start, say where, watch over the children, stop them all."""
    console = Console()
    plan = plan_from(arguments, http_port=arguments.port, grpc_port=arguments.grpc_port, host=arguments.host)
    interrupt_once()
    try:
        with start_with_progress(plan, console) as fleet:
            _say_where(console, fleet)
            _watch(fleet, console)
    except KeyboardInterrupt:
        console.print("stopped; no process is left behind")
    return 0


@contextlib.contextmanager
def start_with_progress(plan: FleetPlan, console: Console) -> Iterator[LocalFleet]:
    """A running platform, once all of it is ready; shows who has joined meanwhile."""
    with LocalFleet(plan) as fleet:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            total = len(plan.members())
            task = progress.add_task(f"loading {plan.model_name}: 0 of {total} workers", total=total)

            def on_progress(joined: Sequence[str]) -> None:
                description = f"loading {plan.model_name}: {len(joined)} of {total} workers"
                progress.update(task, completed=len(joined), description=description)

            fleet.wait_ready(on_progress)
        yield fleet


def _say_where(console: Console, fleet: LocalFleet) -> None:
    """Addresses and commands to paste: never wrapped, so that they paste whole."""
    body = {"model": fleet.plan.model_name, "messages": [{"role": "user", "content": "37+48=?"}]}
    workers = ", ".join(name for name, _ in fleet.plan.roles())
    lines = (
        f"Sluice serves {fleet.plan.model_name}",
        f"  OpenAI API  {', '.join(fleet.urls)}",
        f"  gRPC        {fleet.grpc_address}",
        f"  workers     {workers}",
        f"  logs        {fleet.folder}",
        "",
        "Try:",
        f"  curl {fleet.url}/chat/completions -H 'content-type: application/json' \\",
        f"    -d {shlex.quote(json.dumps(body))}",
        f"  sluice chat --url {fleet.url}",
        f"  sluice get workers --grpc {fleet.grpc_address}",
        "",
        "Ctrl-C stops everything.",
    )
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _watch(fleet: LocalFleet, console: Console) -> None:
    """Start lost workers again, until interrupted."""
    try:
        while True:
            time.sleep(WATCH_EVERY_S)
            for worker in fleet.restart_lost():
                console.print(f"{worker} has ended; its requests go on elsewhere while it is started again")
    except KeyboardInterrupt:
        console.print("\nstopping …")
        raise


def interrupt_once() -> None:
    """Let the first Ctrl-C or SIGTERM raise KeyboardInterrupt, and no other: stopping is never cut short."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
