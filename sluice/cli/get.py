"""`sluice get workers|requests|fabric|capacity`: what a running platform is doing, as a table or as JSON."""

import argparse
from collections.abc import Sequence
from typing import Final

from google.protobuf.json_format import MessageToJson
from rich.console import Console

from sluice.cli.admin_call import add_router_argument, admin
from sluice.cli.capacity_columns import capacity_columns
from sluice.cli.tables import Column, show
from sluice.wire.gen import sluice_pb2 as pb

CALL_S_MAX: Final = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice get`."""
    parser.add_argument("what", choices=["workers", "requests", "fabric", "capacity"])
    parser.add_argument("id", nargs="?", default="", help="one request's id")
    add_router_argument(parser)
    parser.add_argument("--limit", type=int, default=20, help="latest requests to show (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Ask the router and print."""
    with admin(arguments.grpc) as stub:
        match arguments.what:
            case "workers":
                workers = stub.GetWorkers(pb.GetWorkersRequest(), timeout=CALL_S_MAX)
                reply, columns = workers, worker_columns(workers)
            case "fabric":
                workers = stub.GetWorkers(pb.GetWorkersRequest(), timeout=CALL_S_MAX)
                reply, columns = workers, fabric_columns(workers)
            case "capacity":
                capacity = stub.GetCapacity(pb.GetCapacityRequest(), timeout=CALL_S_MAX)
                reply, columns = capacity, capacity_columns(capacity)
            case _:
                request = pb.GetRequestsRequest(request_id=arguments.id, limit=max(0, arguments.limit))
                requests = stub.GetRequests(request, timeout=CALL_S_MAX)
                reply, columns = requests, request_columns(requests)
    if arguments.json:
        print(MessageToJson(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
    else:
        show(columns, Console())
    return 0


def fabric_columns(reply: pb.GetWorkersReply) -> list[Column]:
    """One line for every pair of workers between which KV can flow."""
    pairs = [(row.info.worker, link) for row in reply.workers for link in row.load.links]
    return [
        Column("FROM", [worker for worker, _ in pairs]),
        Column("TO", [link.peer for _, link in pairs]),
        Column("BOOT", [link.peer_boot for _, link in pairs], spare=2),
        Column("OVER", [link.transport for _, link in pairs]),
        Column("SPEED", [f"{link.gb_per_s:.2f} GB/s" if link.pushes else "-" for _, link in pairs]),
        Column("PROBED", [probed(link) for _, link in pairs]),
        Column("PUSHES", [str(link.pushes) for _, link in pairs]),
        Column("FAILED", [str(link.failed) for _, link in pairs]),
        Column("MOVED", [f"{link.bytes / 1e6:.2f} MB" for _, link in pairs]),
        Column("LAST ERROR", [link.last_error or "-" for _, link in pairs], spare=1),
    ]


def worker_columns(reply: pb.GetWorkersReply) -> list[Column]:
    """One line a worker."""
    rows = reply.workers
    return [
        Column("WORKER", [row.info.worker for row in rows]),
        Column("ROLE", [row.info.role for row in rows]),
        Column("STATE", [state(row) for row in rows]),
        Column("RUNNING", [str(row.load.running_sequences) for row in rows]),
        Column("WAITING", [str(row.load.waiting_sequences) for row in rows], spare=1),
        Column("KV FREE", [f"{row.load.free_blocks}/{row.info.blocks}" for row in rows]),
        Column("RESERVED", [str(row.load.reserved_blocks) for row in rows], spare=3),
        Column("STEP", [f"{row.load.step_s * 1e3:.1f} ms" for row in rows], spare=4),
        Column("DEVICE", [row.info.device for row in rows], spare=5),
        Column("SEEN", [f"{row.heartbeat_age_s:.1f} s ago" for row in rows], spare=2),
    ]


def state(row: pb.WorkerRow) -> str:
    """Where a worker is in its life, and why it gets no work though it admits some."""
    unready = "; ".join(row.load.unready)
    return f"not ready: {unready}" if unready and row.load.lifecycle == "ready" else row.load.lifecycle


def probed(link: pb.Link) -> str:
    """What the last probe of a link found, and when."""
    if not link.HasField("probe_age_s"):
        return "not yet"
    found = link.problem or f"{link.probe_gb_per_s:.2f} GB/s"
    return f"{found}, {link.probe_age_s:.0f} s ago"


def request_columns(reply: pb.GetRequestsReply) -> list[Column]:
    """One line a sequence, newest first."""
    rows = reply.requests
    return [
        Column("REQUEST", [row.request_id if row.choice == 0 else f"{row.request_id}#{row.choice}" for row in rows]),
        Column("STATE", [f"{row.state} ({row.finish_reason})" if row.finish_reason else row.state for row in rows]),
        Column("PREFILL", [row.prefill_worker for row in rows], spare=1),
        Column("DECODE", [row.decode_worker for row in rows]),
        *_image_columns(rows),
        Column("PROMPT", [str(row.prompt_tokens) for row in rows], spare=4),
        Column("CACHED", [str(row.cached_tokens) for row in rows], spare=6),
        Column("OUT", [str(row.output_tokens) for row in rows], spare=2),
        Column("TTFT", [f"{row.first_token_s * 1e3:.0f} ms" if row.first_token_s else "-" for row in rows]),
        Column("TPOT", [f"{row.tpot_s * 1e3:.1f} ms" if row.tpot_s else "-" for row in rows], spare=3),
        Column("MOVES", [latest_move(row) for row in rows], spare=3),
        Column("KV MOVED", [moved(row) for row in rows], spare=5),
        Column("AGE", [f"{row.age_s:.0f} s" for row in rows], spare=7),
    ]


def _image_columns(rows: Sequence[pb.RequestRow]) -> list[Column]:
    """Who encoded a request's pictures; no column where nobody showed any."""
    if not any(row.images for row in rows):
        return []
    return [Column("IMAGES", [images(row) for row in rows], spare=2)]


def images(row: pb.RequestRow) -> str:
    """How many, how many of them some encode worker had already, and which encode workers; "-" if none."""
    if not row.images:
        return "-"
    cached = f", {row.images_cached} cached" if row.images_cached else ""
    return f"{row.images}{cached}: {', '.join(row.encoders)}"


def latest_move(row: pb.RequestRow) -> str:
    """How often it changed its worker, and why the last time; "-" if never."""
    if not row.moves:
        return "-"
    last = row.moves[-1]
    return f"{len(row.moves)}; from {last.from_worker}, {last.why}"


def moved(row: pb.RequestRow) -> str:
    """KV bytes a request moved, how and how fast; "-" if none."""
    if not row.kv_bytes:
        return "-"
    speed = f", {row.kv_bytes / row.transfer_s / 1e9:.2f} GB/s" if row.transfer_s else ""
    return f"{row.kv_bytes / 1e6:.2f} MB over {row.transport}{speed}"
