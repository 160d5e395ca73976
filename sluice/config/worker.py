"""Settings of a worker process. Sizes not given are derived from the model and the machine."""

from dataclasses import dataclass, field
from typing import Literal

from sluice.config.telemetry import TelemetryConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The engine's limits and device."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: int = 0  # 0: as torch chooses
    block_tokens: int = 16
    kv_memory_mib: int = 256
    batch_sequences_max: int = 64
    step_tokens_max: int = 512
    sequence_tokens_max: int = 0  # 0: what the model was made for
    waiting_sequences_max: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    """How KV moves to and from this worker."""

    transports: tuple[Literal["shm", "tcp", "nixl"], ...] = ()  # in order of preference; (): by device
    lease_s: float = 30.0
    copy_rounds_max: int = 8  # of a migration, while the sequence runs; 0: freeze it, then copy all
    floor_mib_per_s: float = 50.0  # a transfer slower than this is given up
    checksums: Literal["off", "sampled", "always"] = "sampled"
    quarantine_fraction_max: float = 0.1  # of the pool; above it the worker restarts itself


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """One worker process."""

    worker: str
    model_path: str
    model_name: str = ""  # as routers call it; empty: the directory's name
    role: Literal["prefill", "decode", "mixed"] = "mixed"
    routers: tuple[str, ...] = ("127.0.0.1:8001",)  # host:port of routers' gRPC; all addresses of a name are dialled
    host: str = "127.0.0.1"
    advertise_host: str = ""  # as peers reach this worker; empty: `host`
    kv_port: int = 0  # 0: any free port
    metrics_port: int = 0  # 0: any free port
    stop_grace_s: float = 10.0
    router_grace_s: float = 30.0  # how long requests of a lost router run on, for clients that come back to another one
    engine: EngineConfig = field(default_factory=EngineConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
