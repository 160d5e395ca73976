"""Named failures as HTTP answers in OpenAI's shape; decided by the error's class alone.

Never catches anything: `http_server.py` does, at the edge.
"""

from dataclasses import dataclass
from typing import Final

import orjson

from sluice.errors import Code, InvalidRequestError, NoWorkerError, OverloadedError, SluiceError, UnknownModelError


@dataclass(frozen=True, slots=True)
class _Shape:
    status: int
    kind: str
    code: str | None


_SHAPES: Final = {
    Code.INVALID_ARGUMENT: _Shape(400, "invalid_request_error", None),
    Code.NOT_FOUND: _Shape(404, "invalid_request_error", "model_not_found"),
    Code.TOO_LARGE: _Shape(413, "invalid_request_error", "request_too_large"),
    Code.RESOURCE_EXHAUSTED: _Shape(429, "rate_limit_error", "rate_limit_exceeded"),
    Code.UNAVAILABLE: _Shape(503, "service_unavailable_error", "service_unavailable"),
    Code.FAILED_PRECONDITION: _Shape(503, "service_unavailable_error", "service_unavailable"),
    Code.DEADLINE_EXCEEDED: _Shape(504, "timeout_error", "deadline_exceeded"),
    Code.CANCELLED: _Shape(499, "cancelled_error", "cancelled"),
    Code.INTERNAL: _Shape(500, "server_error", "internal_error"),
}


def status_of(error: SluiceError) -> int:
    """The HTTP status of an error."""
    return _SHAPES[error.code].status


def headers_of(error: SluiceError) -> dict[str, str]:
    """Retry-After, in whole seconds, where waiting may help."""
    if isinstance(error, OverloadedError | NoWorkerError):
        return {"Retry-After": str(max(1, round(error.retry_after_s)))}
    return {}


def body_of(error: SluiceError) -> bytes:
    """The JSON body OpenAI's clients expect."""
    shape = _SHAPES[error.code]
    param = error.field if isinstance(error, InvalidRequestError | UnknownModelError) else None
    return error_body(str(error), kind=shape.kind, param=param, code=shape.code)


def error_body(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """An error body for what has no error class, such as an unknown path."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})
