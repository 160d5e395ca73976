"""`sluice drain WORKER`: admit nothing more there, move its requests away, say what became of each."""

import argparse

from rich.console import Console

from sluice.cli.admin_call import add_router_argument, admin, deadline_s
from sluice.wire.gen import sluice_pb2 as pb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice drain`."""
    parser.add_argument("worker", help="its name, as `sluice get workers` shows it")
    parser.add_argument(
        "--deadline", default="60s", metavar="TIME", help="recompute what is left elsewhere then; 0: wait"
    )
    parser.add_argument("--resume", action="store_true", help="the opposite: admit work again")
    add_router_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when the worker is drained (safe to stop), or admits again."""
    seconds = deadline_s(arguments.deadline)
    console = Console()
    request = pb.DrainRequest(worker=arguments.worker, deadline_s=seconds, resume=arguments.resume)
    counts: dict[str, int] = {}
    lifecycle = ""
    with admin(arguments.grpc) as stub, console.status(f"draining {arguments.worker} …") as status:
        for event in stub.Drain(request):
            lifecycle = event.lifecycle
            status.update(f"draining {arguments.worker}: {event.left} requests left")
            for outcome in event.outcomes:
                counts[outcome.outcome] = counts.get(outcome.outcome, 0) + 1
                console.print(f"  {outcome.request_id}  {outcome.outcome}  {outcome.detail}", markup=False)
    if arguments.resume:
        console.print(f"{arguments.worker} admits work again")
        return 0
    summary = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "nothing ran there"
    if lifecycle == "drained":
        console.print(f"{arguments.worker} is drained ({summary}): it is safe to stop")
        return 0
    console.print(f"{arguments.worker} is {lifecycle} ({summary})")
    return 0 if lifecycle == "gone" else 1
