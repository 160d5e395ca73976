"""`sluice up`: a whole platform on this machine, until Ctrl-C."""

import argparse
import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from rich.console import Console
from rich.table import Table

from sluice.cli.fleet_options import add_fleet_arguments, plan_from
from sluice.cli.local_fleet import FleetPlan, LocalFleet


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
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with start_with_progress(plan, console) as fleet:
            _say_where(console, fleet)
            while True:
                time.sleep(0.5)
                for child in fleet.children.values():
                    child.check_alive()
    except KeyboardInterrupt:
        console.print("stopped; no process is left behind")
        return 0


@contextlib.contextmanager
def start_with_progress(plan: FleetPlan, console: Console) -> Iterator[LocalFleet]:
    """A running platform, once all of it is ready; shows who has joined meanwhile."""
    total = len(plan.roles())
    with LocalFleet(plan) as fleet:
        with console.status(f"loading {plan.model_name} on {total} workers …") as status:

            def on_progress(joined: Sequence[str]) -> None:
                names = ", ".join(joined)
                status.update(f"loading {plan.model_name}: {len(joined)} of {total} workers ready ({names})")

            fleet.wait_ready(on_progress)
        yield fleet


def _say_where(console: Console, fleet: LocalFleet) -> None:
    table = Table(title=f"Sluice serves {fleet.plan.model_name}", title_justify="left", show_header=False, box=None)
    table.add_row("OpenAI API", fleet.url)
    table.add_row("gRPC", fleet.grpc_address)
    table.add_row("workers", ", ".join(name for name, _ in fleet.plan.roles()))
    table.add_row("logs", str(fleet.folder))
    console.print(table)
    console.print("\nTry:", style="bold")
    address = fleet.grpc_address
    body = f'{{"model": "{fleet.plan.model_name}", "messages": [{{"role": "user", "content": "37+48=?"}}]}}'
    console.print(
        f"  curl {fleet.url}/chat/completions -H 'content-type: application/json' \\\n    -d '{body}'", markup=False
    )
    console.print(f"  sluice chat --url {fleet.url}\n  sluice get workers --grpc {address}", markup=False)
    console.print("\nCtrl-C stops everything.", style="dim")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
