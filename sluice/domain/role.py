"""What a worker admits, and in which phase a request is."""

from enum import Enum


class Role(Enum):
    """The work a worker admits. A state that can change, not a kind of process."""

    ENCODE = "encode"  # images to embeddings; loads another half of the model than the others
    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"


class Lifecycle(Enum):
    """A worker's own view of itself; only READY admits work."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DRAINED = "drained"
    STOPPED = "stopped"


class FinishReason(Enum):
    """Why a sequence ended, in OpenAI's words where they exist."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"
