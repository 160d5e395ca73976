"""`sluice get workers|requests`: what a running platform is doing, as a table or as JSON."""

import argparse
from typing import Final

import grpc
from google.protobuf.json_format import MessageToJson
from rich.console import Console
from rich.table import Table

from sluice.errors import NoWorkerError
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

TABLE_COLUMNS: Final = 190  # a narrower terminal wraps lines; cells are never cut


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice get`."""
    parser.add_argument("what", choices=["workers", "requests"])
    parser.add_argument("id", nargs="?", default="", help="one request's id")
    parser.add_argument("--grpc", default="127.0.0.1:8001", metavar="HOST:PORT", help="a router (%(default)s)")
    parser.add_argument("--limit", type=int, default=20, help="latest requests to show (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Ask the router and print."""
    try:
        with grpc.insecure_channel(arguments.grpc) as channel:
            admin = rpc.AdminStub(channel)
            if arguments.what == "workers":
                reply = admin.GetWorkers(pb.GetWorkersRequest(), timeout=5.0)
                table = workers_table(reply)
            else:
                request = pb.GetRequestsRequest(request_id=arguments.id, limit=max(0, arguments.limit))
                reply = admin.GetRequests(request, timeout=5.0)
                table = requests_table(reply)
    except grpc.RpcError as error:
        reason = error.details() if isinstance(error, grpc.Call) else str(error)
        raise NoWorkerError(
            f"no router answers at {arguments.grpc} ({reason}); give its address with --grpc"
        ) from error
    if arguments.json:
        print(MessageToJson(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
    else:
        Console(width=TABLE_COLUMNS).print(table)
    return 0


def workers_table(reply: pb.GetWorkersReply) -> Table:
    """One line a worker."""
    table = Table(box=None, header_style="bold")
    for name in ("WORKER", "ROLE", "STATE", "RUNNING", "WAITING", "KV FREE", "RESERVED", "STEP", "DEVICE", "SEEN"):
        table.add_column(name, no_wrap=True)
    for row in reply.workers:
        table.add_row(
            row.info.worker,
            row.info.role,
            row.load.lifecycle,
            str(row.load.running_sequences),
            str(row.load.waiting_sequences),
            f"{row.load.free_blocks}/{row.info.blocks}",
            str(row.load.reserved_blocks),
            f"{row.load.step_s * 1e3:.1f} ms",
            row.info.device,
            f"{row.heartbeat_age_s:.1f} s ago",
        )
    return table


def requests_table(reply: pb.GetRequestsReply) -> Table:
    """One line a sequence, newest first."""
    table = Table(box=None, header_style="bold")
    for name in ("REQUEST", "STATE", "PREFILL", "DECODE", "PROMPT", "CACHED", "OUT", "TTFT", "TPOT", "KV MOVED", "AGE"):
        table.add_column(name, no_wrap=True)
    for row in reply.requests:
        state = f"{row.state} ({row.finish_reason})" if row.finish_reason else row.state
        table.add_row(
            row.request_id if row.choice == 0 else f"{row.request_id}#{row.choice}",
            state,
            row.prefill_worker,
            row.decode_worker,
            str(row.prompt_tokens),
            str(row.cached_tokens),
            str(row.output_tokens),
            f"{row.first_token_s * 1e3:.0f} ms" if row.first_token_s else "-",
            f"{row.tpot_s * 1e3:.1f} ms" if row.tpot_s else "-",
            moved(row),
            f"{row.age_s:.0f} s",
        )
    return table


def moved(row: pb.RequestRow) -> str:
    """KV bytes a request moved, how and how fast; "-" if none."""
    if not row.kv_bytes:
        return "-"
    speed = f", {row.kv_bytes / row.transfer_s / 1e9:.2f} GB/s" if row.transfer_s else ""
    return f"{row.kv_bytes / 1e6:.2f} MB {row.transport}{speed}"
