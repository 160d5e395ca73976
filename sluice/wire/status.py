"""Named failures to gRPC status codes and back; decided by the error's class alone."""

from typing import Final

import grpc

from sluice.errors import Code, SluiceError

GRPC_STATUS: Final = {
    Code.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Code.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.CANCELLED: grpc.StatusCode.CANCELLED,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}


def status_of(error: SluiceError) -> grpc.StatusCode:
    """The status a caller sees for `error`."""
    return GRPC_STATUS[error.code]


def describe(error: grpc.RpcError) -> str:
    """One line saying what a failed call answered, for logs and reports."""
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error)


def explain(error: SluiceError | grpc.RpcError) -> str:
    """One line saying why a peer could not be asked, or what it answered."""
    return describe(error) if isinstance(error, grpc.RpcError) else str(error)
