"""`sluice get workers|requests`: what a running platform is doing, as a table or as JSON."""

import argparse

import grpc
from google.protobuf.json_format import MessageToJson
from rich.console import Console

from sluice.cli.tables import Column, show
from sluice.errors import NoWorkerError
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc


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
                columns = worker_columns(reply)
            else:
                request = pb.GetRequestsRequest(request_id=arguments.id, limit=max(0, arguments.limit))
                reply = admin.GetRequests(request, timeout=5.0)
                columns = request_columns(reply)
    except grpc.RpcError as error:
        reason = error.details() if isinstance(error, grpc.Call) else str(error)
        raise NoWorkerError(
            f"no router answers at {arguments.grpc} ({reason}); give its address with --grpc"
        ) from error
    if arguments.json:
        print(MessageToJson(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
    else:
        show(columns, Console())
    return 0


def worker_columns(reply: pb.GetWorkersReply) -> list[Column]:
    """One line a worker."""
    rows = reply.workers
    return [
        Column("WORKER", [row.info.worker for row in rows]),
        Column("ROLE", [row.info.role for row in rows]),
        Column("STATE", [row.load.lifecycle for row in rows]),
        Column("RUNNING", [str(row.load.running_sequences) for row in rows]),
        Column("WAITING", [str(row.load.waiting_sequences) for row in rows], spare=1),
        Column("KV FREE", [f"{row.load.free_blocks}/{row.info.blocks}" for row in rows]),
        Column("RESERVED", [str(row.load.reserved_blocks) for row in rows], spare=3),
        Column("STEP", [f"{row.load.step_s * 1e3:.1f} ms" for row in rows], spare=4),
        Column("DEVICE", [row.info.device for row in rows], spare=5),
        Column("SEEN", [f"{row.heartbeat_age_s:.1f} s ago" for row in rows], spare=2),
    ]


def request_columns(reply: pb.GetRequestsReply) -> list[Column]:
    """One line a sequence, newest first."""
    rows = reply.requests
    return [
        Column("REQUEST", [row.request_id if row.choice == 0 else f"{row.request_id}#{row.choice}" for row in rows]),
        Column("STATE", [f"{row.state} ({row.finish_reason})" if row.finish_reason else row.state for row in rows]),
        Column("PREFILL", [row.prefill_worker for row in rows], spare=1),
        Column("DECODE", [row.decode_worker for row in rows]),
        Column("PROMPT", [str(row.prompt_tokens) for row in rows], spare=4),
        Column("CACHED", [str(row.cached_tokens) for row in rows], spare=6),
        Column("OUT", [str(row.output_tokens) for row in rows], spare=2),
        Column("TTFT", [f"{row.first_token_s * 1e3:.0f} ms" if row.first_token_s else "-" for row in rows]),
        Column("TPOT", [f"{row.tpot_s * 1e3:.1f} ms" if row.tpot_s else "-" for row in rows], spare=3),
        Column("KV MOVED", [moved(row) for row in rows], spare=5),
        Column("AGE", [f"{row.age_s:.0f} s" for row in rows], spare=7),
    ]


def moved(row: pb.RequestRow) -> str:
    """KV bytes a request moved, how and how fast; "-" if none."""
    if not row.kv_bytes:
        return "-"
    speed = f", {row.kv_bytes / row.transfer_s / 1e9:.2f} GB/s" if row.transfer_s else ""
    return f"{row.kv_bytes / 1e6:.2f} MB over {row.transport}{speed}"
