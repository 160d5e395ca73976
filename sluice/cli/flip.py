"""`sluice flip WORKER --role ROLE`: another role for a worker, nothing lost; weights are kept but to or from encode."""

import argparse

from rich.console import Console

from sluice.cli.admin_call import add_router_argument, admin, deadline_s
from sluice.wire.gen import sluice_pb2 as pb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice flip`."""
    parser.add_argument("worker", help="its name, as `sluice get workers` shows it")
    parser.add_argument("--role", required=True, choices=["encode", "prefill", "decode", "mixed"])
    parser.add_argument("--deadline", default="60s", metavar="TIME", help="for moving its requests away")
    add_router_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when the worker has the role and admits work."""
    seconds = deadline_s(arguments.deadline)
    console = Console()
    request = pb.FlipRequest(worker=arguments.worker, role=arguments.role, deadline_s=seconds)
    with admin(arguments.grpc) as stub, console.status(f"moving requests away from {arguments.worker} …"):
        reply = stub.Flip(request)
    article = "an" if reply.role == "encode" else "a"
    console.print(f"{reply.worker} is {article} {reply.role} worker now")
    return 0
