"""Makes a worker's transports from their names, leaving out what this machine cannot run.

The order of the names is the order of preference. `inproc` is not here: it needs a network object
that only tests and simulation have. Never connects to anything. Next: `mover.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sluice.domain.ids import BootId
from sluice.errors import ConfigError, TransportUnavailableError
from sluice.kv_transfer.nixl_transport import NixlTransport
from sluice.kv_transfer.shm_transport import ShmTransport
from sluice.kv_transfer.tcp_transport import TcpTransport
from sluice.kv_transfer.transport import Transport

BACKENDS: Final = ("shm", "tcp", "nixl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """Transports ready for a Mover, and why the others are not among them, by name."""

    transports: tuple[Transport, ...]
    unavailable: tuple[tuple[str, str], ...]


def default_names(device: str) -> tuple[str, ...]:
    """What to use for a pool on `device` ("cpu" or "cuda:0") when nobody chose."""
    return ("shm", "tcp") if device == "cpu" else ("nixl",)


def open_backends(
    names: Sequence[str],
    *,
    boot: BootId,
    host: str,
    port: int = 0,
    advertise_host: str = "",
    cuda_major: int | None = None,
) -> Backends:
    """Make the named transports; `host` and `port` are where tcp listens.

    Raises ConfigError for a name that does not exist. Memory is registered later, by the Mover.
    """
    transports: list[Transport] = []
    unavailable: list[tuple[str, str]] = []
    for name in names:
        match name:
            case "shm":
                transports.append(ShmTransport())
            case "tcp":
                transports.append(TcpTransport(boot=boot, host=host, port=port, advertise_host=advertise_host))
            case "nixl":
                try:
                    transports.append(NixlTransport(boot=boot, cuda_major=cuda_major))
                except TransportUnavailableError as error:
                    unavailable.append((name, str(error)))
            case _:
                raise ConfigError(f"transports: there is no '{name}'; choose from {', '.join(BACKENDS)}")
    return Backends(transports=tuple(transports), unavailable=tuple(unavailable))
