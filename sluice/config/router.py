"""Settings of a router process. Every field has a default that works on one machine."""

from dataclasses import dataclass, field

from sluice.config.telemetry import TelemetryConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionConfig:
    """How much work a router accepts before it says no."""

    queue_requests_max: int = 1024  # waiting for placement
    queue_tokens_max: int = 4_000_000
    inflight_sequences_max: int = 4096
    request_timeout_s: float = 600.0
    queue_timeout_s: float = 60.0
    hold_s: float = 0.0  # while no worker serves, requests wait so long for a first one; 0: they are refused
    held_requests_max: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementConfig:
    """Who serves what."""

    policy: str = "joint"  # or one of the published ones it is compared with
    disaggregate_tokens_min: int = 64  # uncached prompt tokens below which a handoff between idle workers does not pay
    attempts_max: int = 4  # placements of one sequence, the first included
    moves_max: int = 32  # live migrations the policy may have under way; 0: it moves nothing
    flips_max: int = 1  # workers whose role the policy may be changing; 0: roles are others' to change


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassConfig:
    """Objectives of one class of requests."""

    ttft_s: float
    tpot_s: float
    miss_cost: float  # of one missed request, relative to the other classes
    give_up_s: float = 0.0  # a first token predicted later than this is refused at once; 0: never
    refuse_above: float = 0.0  # refused if serving it costs others and itself so many misses like its own; 0: never


@dataclass(frozen=True, slots=True, kw_only=True)
class SloConfig:
    """Objectives placement aims at and goodput is counted against: of standard requests, and of the other classes."""

    ttft_s: float = 1.0
    tpot_s: float = 0.1
    miss_cost: float = 1.0
    give_up_s: float = 0.0  # a first token predicted later than this is refused at once; 0: never
    refuse_above: float = 0.0  # refused if serving it costs others and itself so many misses like its own; 0: never
    interactive: ClassConfig = field(default_factory=lambda: ClassConfig(ttft_s=0.5, tpot_s=0.05, miss_cost=2.0))
    batch: ClassConfig = field(default_factory=lambda: ClassConfig(ttft_s=600.0, tpot_s=10.0, miss_cost=0.1))


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturesConfig:
    """Pictures in chat messages."""

    hosts: tuple[str, ...] = ()  # pictures are fetched from these alone, as name, *.name or name:port; none: no fetch
    networks: tuple[str, ...] = ()  # addresses those hosts may have beside public ones, as 10.0.0.0/8
    per_request_max: int = 16
    file_bytes_max: int = 20 * 1024 * 1024
    request_bytes_max: int = 48 * 1024 * 1024
    held_bytes_max: int = 1024 * 1024 * 1024  # of all running requests
    fetch_s: float = 10.0  # of one picture, redirects included
    redirects_max: int = 3
    fetches_max: int = 16  # at once
    fetches_waiting_max: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """One router process."""

    model_path: str  # directory with tokenizer and config; weights are not read
    model_name: str = ""  # as clients call it; empty: the directory's name
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    body_bytes_max: int = 4 * 1024 * 1024  # beside pictures
    choices_max: int = 16
    prompts_max: int = 64  # prompts in one completions call
    stream_buffer_tokens_max: int = 4096  # unread by a slow client before it is cut off
    heartbeat_s: float = 1.0
    worker_expiry_s: float = 4.0
    records_max: int = 1000
    stop_grace_s: float = 10.0  # for running requests to end, once told to stop
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    slo: SloConfig = field(default_factory=SloConfig)
    pictures: PicturesConfig = field(default_factory=PicturesConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
