"""One call to a router's Admin service, with its failures in words."""

import argparse
import contextlib
from collections.abc import Iterator

import grpc

from sluice.errors import InvalidRequestError, NoWorkerError, SluiceError
from sluice.wire.gen import sluice_pb2_grpc as rpc


class RefusedError(SluiceError):
    """The router understood and said no; the message is its own."""


def add_router_argument(parser: argparse.ArgumentParser) -> None:
    """The option every command that talks to a router has."""
    parser.add_argument("--grpc", default="127.0.0.1:8001", metavar="HOST:PORT", help="a router (%(default)s)")


@contextlib.contextmanager
def admin(address: str) -> Iterator[rpc.AdminStub]:
    """A stub for calls inside the block. Raises NoWorkerError if nobody answers, RefusedError if it says no."""
    try:
        with grpc.insecure_channel(address) as channel:
            yield rpc.AdminStub(channel)
    except grpc.RpcError as error:
        details = error.details() if isinstance(error, grpc.Call) else str(error)
        if isinstance(error, grpc.Call) and error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise RefusedError(details or error.code().name) from error
        raise NoWorkerError(f"no router answers at {address} ({details}); give its address with --grpc") from error


def check_deadline(deadline_s: float) -> None:
    """Raise InvalidRequestError unless the deadline is a usable number of seconds."""
    if not 0 <= deadline_s < float("inf"):
        raise InvalidRequestError(
            field="--deadline", problem=f"is {deadline_s:g}", remedy="use seconds from 0 (no limit) up"
        )
