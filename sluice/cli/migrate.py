"""`sluice migrate REQUEST`: move one running request to another worker while it streams."""

import argparse

from rich.console import Console

from sluice.cli.admin_call import add_router_argument, admin
from sluice.wire.gen import sluice_pb2 as pb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice migrate`."""
    parser.add_argument("request", help="its id, as `sluice get requests` shows it")
    parser.add_argument("--choice", type=int, default=0, help="which of its outputs (%(default)s)")
    parser.add_argument("--to", default="", metavar="WORKER", help="default: wherever is best")
    parser.add_argument("--recompute", action="store_true", help="compute it again elsewhere instead of copying it")
    add_router_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when the move has begun."""
    request = pb.MigrateRequest(
        request_id=arguments.request,
        choice=max(0, arguments.choice),
        to_worker=arguments.to,
        recompute=arguments.recompute,
    )
    with admin(arguments.grpc) as stub:
        reply = stub.Migrate(request)
    Console().print(
        f"moving from {reply.from_worker} to {reply.to_worker}; `sluice get requests` shows when it is there"
    )
    return 0
