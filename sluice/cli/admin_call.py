"""One call to a router's Admin service, with its failures in words."""

import argparse
import contextlib
from collections.abc import Iterator
from typing import Final

import grpc

from sluice.errors import InvalidRequestError, NoWorkerError, SluiceError
from sluice.wire.gen import sluice_pb2_grpc as rpc

UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


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


def deadline_s(words: str) -> float:
    """The seconds of `60`, `60s`, `1.5m` or `1h`. Raises InvalidRequestError for what is no usable time."""
    number, unit = words, 1.0
    if words[-1:] in UNITS_S:
        number, unit = words[:-1], UNITS_S[words[-1]]
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        remedy = "use seconds from 0 (no limit) up, as 60, 60s or 2m"
        raise InvalidRequestError(field="--deadline", problem=f"is {words}", remedy=remedy)
    return seconds
