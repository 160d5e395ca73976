"""Asks a router for what it wrote down of one request, again until the record says what the caller waits for."""

import time
from collections.abc import Callable
from typing import Final

import grpc

from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

CALL_S_MAX: Final = 5.0
POLL_S: Final = 0.05


def record_of(
    grpc_address: str, request: str, *, until: Callable[[pb.RequestRow], bool], wait_s: float = CALL_S_MAX
) -> pb.RequestRow:
    """The record once `until` holds of it, or as it is after `wait_s`; an empty one if there is none."""
    deadline_s = time.monotonic() + wait_s
    with grpc.insecure_channel(grpc_address) as channel:
        admin = rpc.AdminStub(channel)
        while True:
            reply = admin.GetRequests(pb.GetRequestsRequest(request_id=request), timeout=CALL_S_MAX)
            row = reply.requests[0] if reply.requests else pb.RequestRow()
            if until(row) or time.monotonic() > deadline_s:
                return row
            time.sleep(POLL_S)


def is_finished(row: pb.RequestRow) -> bool:
    """Whether the request has ended."""
    return row.state == "finished"


def is_complete(row: pb.RequestRow) -> bool:
    """Whether it has ended and its handoff was reported: a short answer can end before that arrives."""
    return is_finished(row) and bool(row.kv_bytes or row.prefill_worker == row.decode_worker)
