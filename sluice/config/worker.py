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
    copy_share: float = 0.05  # of its time that a migration works; drains never rest; 1: no rest
    floor_gb_per_s: float = 0.005  # a link that a probe finds slower is not used; set what your fabric should do
    probe_mib: int = 4  # moved by one measurement of a link
    probe_every_s: float = 30.0  # how often each link is probed
    checksums: Literal["off", "sampled", "always"] = "sampled"
    quarantine_fraction_max: float = 0.1  # of the pool; above it the worker restarts itself


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuConfig:
    """What this worker is to placement: what no driver tells."""

    gpu_class: str = ""  # as in the catalogue: H100, A100-80G, L4; empty: by the device's name
    tensor_parallel: int = 1  # GPUs of this replica
    price_per_h: float = 0.0  # dollars of one GPU; 0: the catalogue's
    profile: str = ""  # what its steps take: a file of `sluice profile` or a folder of measured operators


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesConfig:
    """Pictures and their embeddings, where the model sees."""

    encodes: bool = False  # a worker of another role has an encoder beside it, in its own process
    embeddings_mib: int = 0  # where they arrive; 0: two of the longest prompts. Encoders: engine.kv_memory_mib
    prepared_mib: int = 256  # pixels that wait for the vision tower
    looks_max: int = 256  # pictures that wait to be prepared
    looks_mib_max: int = 256
    threads: int = 2  # that prepare pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """One worker process."""

    worker: str
    model_path: str
    model_name: str = ""  # as routers call it; empty: the directory's name
    role: Literal["encode", "prefill", "decode", "mixed"] = "mixed"
    routers: tuple[str, ...] = ("127.0.0.1:8001",)  # host:port of routers' gRPC; all addresses of a name are dialled
    host: str = "127.0.0.1"
    advertise_host: str = ""  # as peers reach this worker; empty: `host`
    kv_port: int = 0  # 0: any free port
    metrics_port: int = 0  # 0: any free port
    stop_grace_s: float = 10.0
    router_grace_s: float = 30.0  # how long requests of a lost router run on, for clients that come back to another one
    emulate: str = ""  # a model's shape (Llama-3.1-8B): no model is loaded, steps last as on `gpu.gpu_class`
    gpu: GpuConfig = field(default_factory=GpuConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
