"""Every failure we name: its code, whether a retry can help, and who must act.

The gRPC status and the HTTP status follow from the class (`wire/status.py`,
`router/openai_errors.py`); nothing else decides them. Reads nothing, imports nothing.
"""

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar


class Code(Enum):
    """The kind of a failure, in the words of the gRPC status codes."""

    INVALID_ARGUMENT = "invalid_argument"
    NOT_FOUND = "not_found"
    TOO_LARGE = "too_large"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    UNAVAILABLE = "unavailable"
    FAILED_PRECONDITION = "failed_precondition"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class Actor(Enum):
    """Who can make the failure go away."""

    CLIENT = "client"
    PLATFORM_ENGINEER = "platform engineer"
    SLUICE = "sluice"


class SluiceError(Exception):
    """Base of every error this package raises on purpose."""

    code: ClassVar[Code] = Code.INTERNAL
    retryable: ClassVar[bool] = False
    actor: ClassVar[Actor] = Actor.SLUICE


class IllegalTransitionError(SluiceError):
    """A state machine was fed an event it does not expect: a bug, never load."""

    def __init__(self, *, state: str, event: str) -> None:
        super().__init__(f"event {event} is not allowed in state {state}")
        self.state = state
        self.event = event


class InvalidRequestError(SluiceError):
    """A field of a request is wrong; `field` names it, `remedy` says what would be accepted."""

    code = Code.INVALID_ARGUMENT
    actor = Actor.CLIENT

    def __init__(self, *, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}; {remedy}")
        self.field = field
        self.problem = problem
        self.remedy = remedy


class UnknownModelError(SluiceError):
    """The request names a model this router does not serve."""

    code = Code.NOT_FOUND
    actor = Actor.CLIENT

    def __init__(self, *, model: str, served: tuple[str, ...]) -> None:
        super().__init__(f"model: '{model}' is not served here; use one of: {', '.join(served) or '(none yet)'}")
        self.field = "model"


class BodyTooLargeError(SluiceError):
    """A request body is over the limit."""

    code = Code.TOO_LARGE
    actor = Actor.CLIENT

    def __init__(self, *, bytes_max: int) -> None:
        super().__init__(f"body: larger than {bytes_max} bytes; send a shorter request")


class OverloadedError(SluiceError):
    """A queue is full or a limit reached; the same request may succeed later."""

    code = Code.RESOURCE_EXHAUSTED
    retryable = True

    def __init__(self, what: str, *, retry_after_s: float) -> None:
        super().__init__(f"{what}; retry after {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class NoWorkerError(SluiceError):
    """No worker that could run the request is connected and ready."""

    code = Code.UNAVAILABLE
    retryable = True
    actor = Actor.PLATFORM_ENGINEER

    def __init__(self, what: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


class WorkerLostError(SluiceError):
    """The worker running a request went away and no attempt is left."""

    code = Code.UNAVAILABLE
    retryable = True


class DeadlineError(SluiceError):
    """The client's deadline passed."""

    code = Code.DEADLINE_EXCEEDED
    actor = Actor.CLIENT


class CancelledError(SluiceError):
    """The client went away or asked to stop."""

    code = Code.CANCELLED
    actor = Actor.CLIENT


class ModelLoadError(SluiceError):
    """A model directory cannot be served: a missing, corrupt or unsupported file, by name."""

    code = Code.FAILED_PRECONDITION
    actor = Actor.PLATFORM_ENGINEER


class ConfigError(SluiceError):
    """A setting is wrong; the message names the file, the field and the remedy."""

    code = Code.INVALID_ARGUMENT
    actor = Actor.PLATFORM_ENGINEER


class RefusedSpecError(SluiceError):
    """A custom resource cannot be run as written; every problem names its field and the remedy."""

    code = Code.INVALID_ARGUMENT
    actor = Actor.PLATFORM_ENGINEER

    def __init__(self, problems: Sequence[str], *, shown_max: int = 5) -> None:
        shown = list(problems[:shown_max])
        if len(problems) > shown_max:
            shown.append(f"and {len(problems) - shown_max} more")
        super().__init__("; ".join(shown))


class ClusterApiError(SluiceError):
    """The Kubernetes API server refused a call or did not answer; the message is its own."""

    code = Code.UNAVAILABLE
    retryable = True
    actor = Actor.PLATFORM_ENGINEER

    def __init__(self, what: str, *, http_status: int = 0) -> None:
        super().__init__(what)
        self.http_status = http_status


class IncompatiblePeerError(SluiceError):
    """Two workers cannot exchange KV; the message says which property differs."""

    code = Code.FAILED_PRECONDITION
    actor = Actor.PLATFORM_ENGINEER


class StaleEpochError(SluiceError):
    """A message of an owner that has been replaced; it is ignored."""

    code = Code.FAILED_PRECONDITION


class ReservationRefusedError(SluiceError):
    """A decode worker has no room for the sequence now."""

    code = Code.RESOURCE_EXHAUSTED
    retryable = True


class TransferError(SluiceError):
    """A transport could not move bytes; the peer or the link is at fault."""

    code = Code.UNAVAILABLE
    retryable = True


class TransportUnavailableError(SluiceError):
    """A transport backend cannot run on this machine; the message says what is missing."""

    code = Code.FAILED_PRECONDITION
    actor = Actor.PLATFORM_ENGINEER
