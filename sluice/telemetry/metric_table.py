"""The one table of metric names, labels and buckets: dashboards, code and documentation read it.

Decides names; counts nothing. The `gen_ai` column names the same quantity in the OpenTelemetry
conventions for generative AI servers, whose buckets are kept (finer ones are added below).
Next: `metrics.py` binds the table, `metrics_reference.py` prints it.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Outcome(Enum):
    """How a request ended, as the client saw it."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    REFUSED = "refused"  # over a limit: 429 or 503
    INVALID = "invalid"  # the client's mistake
    FAILED = "failed"


class PlacementKind(Enum):
    """Whether prefill and decode were given to one worker or to two."""

    DISAGGREGATED = "disaggregated"
    COLOCATED = "colocated"


class HandoffResult(Enum):
    """How a handoff ended."""

    COMMITTED = "committed"
    REFUSED = "refused"
    FAILED = "failed"


class MigrationResult(Enum):
    """How a migration ended; only a moved sequence has changed its worker."""

    MOVED = "moved"
    REFUSED = "refused"
    FAILED = "failed"


class WishKind(Enum):
    """What a policy may wish to change while nothing arrives."""

    MOVE = "move"
    FLIP = "flip"


class Objective(Enum):
    """A service-level objective that a request can miss."""

    TTFT = "ttft"
    TPOT = "tpot"


class BlockState(Enum):
    """Every KV block is in exactly one of these; they add up to the pool."""

    FREE = "free"
    CACHED = "cached"
    ACTIVE = "active"
    HELD = "held"
    RESERVED = "reserved"


class Direction(Enum):
    """Whether KV bytes left this worker or arrived."""

    SENT = "sent"
    RECEIVED = "received"


class Kind(Enum):
    """The Prometheus type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One metric. Counters are exposed with `_total` appended by the exposition format."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    gen_ai: str = ""


_TTFT_S: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0)
_GAP_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
_REQUEST_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_STEP_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_TRANSFER_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_BATCH: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

ROUTER_METRICS: Final = (
    MetricSpec(name="sluice_requests", kind=_C, labels=("outcome",), meaning="Requests by how they ended"),
    MetricSpec(
        name="sluice_ttft_seconds",
        kind=_H,
        buckets=_TTFT_S,
        meaning="Request accepted to first token sent",
        gen_ai="gen_ai.server.time_to_first_token",
    ),
    MetricSpec(
        name="sluice_tpot_seconds",
        kind=_H,
        buckets=_GAP_S,
        meaning="Mean time per output token after the first, per request",
        gen_ai="gen_ai.server.time_per_output_token",
    ),
    MetricSpec(name="sluice_itl_seconds", kind=_H, buckets=_GAP_S, meaning="Each single gap between output tokens"),
    MetricSpec(
        name="sluice_request_seconds",
        kind=_H,
        buckets=_REQUEST_S,
        meaning="Request accepted to last token sent",
        gen_ai="gen_ai.server.request.duration",
    ),
    MetricSpec(name="sluice_queue_seconds", kind=_H, buckets=_TTFT_S, meaning="Request accepted to placed"),
    MetricSpec(name="sluice_queue_requests", kind=_G, meaning="Requests waiting for placement now"),
    MetricSpec(name="sluice_queue_requests_max", kind=_G, meaning="Requests that may wait; more are refused"),
    MetricSpec(name="sluice_inflight_requests", kind=_G, meaning="Requests accepted and not ended"),
    MetricSpec(name="sluice_held_requests", kind=_G, meaning="Requests held because no worker serves yet"),
    MetricSpec(name="sluice_hold_seconds", kind=_G, meaning="How long they are held at most; 0: they are refused"),
    MetricSpec(name="sluice_goodput_requests", kind=_C, meaning="Completed requests that met every objective"),
    MetricSpec(
        name="sluice_slo_misses",
        kind=_C,
        labels=("objective",),
        meaning="Requests that missed an objective; refused and failed ones miss them all",
    ),
    MetricSpec(name="sluice_placements", kind=_C, labels=("kind",), meaning="Placement decisions"),
    MetricSpec(name="sluice_handoffs", kind=_C, labels=("outcome",), meaning="Handoffs by how they ended"),
    MetricSpec(name="sluice_migrations", kind=_C, labels=("outcome",), meaning="Migrations by how they ended"),
    MetricSpec(
        name="sluice_migration_frozen_seconds",
        kind=_H,
        buckets=_TRANSFER_S,
        meaning="How long a moved sequence stood still before its new worker could go on",
    ),
    MetricSpec(
        name="sluice_wishes",
        kind=_C,
        labels=("kind", "result"),
        meaning="Moves and flips the policy wished: begun, or why not; a held one counts at every look",
    ),
    MetricSpec(name="sluice_flips", kind=_C, labels=("outcome",), meaning="Changes of a worker's role: done or failed"),
    MetricSpec(name="sluice_prompt_tokens", kind=_C, meaning="Prompt tokens of accepted requests"),
    MetricSpec(name="sluice_cached_tokens", kind=_C, meaning="Prompt tokens found in a prefix cache"),
    MetricSpec(name="sluice_output_tokens", kind=_C, meaning="Output tokens sent to clients"),
    MetricSpec(name="sluice_workers", kind=_G, labels=("role",), meaning="Workers joined and ready, by role"),
    MetricSpec(
        name="sluice_images",
        kind=_C,
        labels=("result",),
        meaning="Pictures of accepted prompts: known to some encode worker, or new",
    ),
    MetricSpec(name="sluice_images_redone", kind=_C, meaning="Images encoded or sent again because an attempt failed"),
    MetricSpec(
        name="sluice_images_seconds",
        kind=_H,
        buckets=_TTFT_S,
        meaning="A prompt's start at a worker to the arrival there of all its images",
    ),
)

WORKER_METRICS: Final = (
    MetricSpec(name="sluice_kv_blocks", kind=_G, labels=("state",), meaning="KV blocks by state"),
    MetricSpec(name="sluice_kv_orphan_blocks", kind=_G, meaning="KV blocks in no state: must be 0, or some leaked"),
    MetricSpec(name="sluice_leases", kind=_G, meaning="Leases held by peers on this worker's blocks"),
    MetricSpec(name="sluice_orphans", kind=_G, meaning="Sequences kept for clients of a lost router"),
    MetricSpec(name="sluice_quarantined_bytes", kind=_G, meaning="KV bytes an abandoned transfer may still touch"),
    MetricSpec(
        name="sluice_transfers",
        kind=_C,
        labels=("transport", "direction", "outcome"),
        meaning="KV transfers by how they ended",
    ),
    MetricSpec(
        name="sluice_transfer_bytes",
        kind=_C,
        labels=("transport", "direction"),
        meaning="KV bytes moved, whole transfers",
    ),
    MetricSpec(
        name="sluice_transfer_seconds",
        kind=_H,
        labels=("transport", "direction"),
        buckets=_TRANSFER_S,
        meaning="Time a handoff's pushes were on the wire, summed; timed by the sender",
    ),
    MetricSpec(
        name="sluice_handoff_exposed_seconds",
        kind=_H,
        buckets=_TRANSFER_S,
        meaning="First token chosen to commit answered: the part of a handoff nothing hides",
    ),
    MetricSpec(name="sluice_step_seconds", kind=_H, buckets=_STEP_S, meaning="Wall time of one engine step"),
    MetricSpec(name="sluice_batch_sequences", kind=_H, buckets=_BATCH, meaning="Sequences decoded in one step"),
    MetricSpec(name="sluice_running_sequences", kind=_G, meaning="Sequences in the batch now"),
    MetricSpec(name="sluice_waiting_sequences", kind=_G, meaning="Sequences accepted and not yet in the batch"),
    MetricSpec(name="sluice_preemptions", kind=_C, meaning="Sequences that gave their blocks back to recompute later"),
    MetricSpec(name="sluice_prefill_tokens", kind=_C, meaning="Prompt tokens computed"),
    MetricSpec(name="sluice_decode_tokens", kind=_C, meaning="Output tokens computed"),
    MetricSpec(name="sluice_sequence_failures", kind=_C, meaning="Sequences the engine failed on their own"),
    MetricSpec(
        name="sluice_probes",
        kind=_C,
        labels=("result",),
        meaning="Probes of links to peers: good, slow, failed, or declined by the peer",
    ),
    MetricSpec(
        name="sluice_pictures",
        kind=_C,
        labels=("result",),
        meaning="Pictures sent here to be encoded: prepared, or refused",
    ),
    MetricSpec(name="sluice_prepare_seconds", kind=_H, buckets=_STEP_S, meaning="Picture received to prepared"),
    MetricSpec(name="sluice_encode_seconds", kind=_H, buckets=_STEP_S, meaning="One forward pass of the vision tower"),
    MetricSpec(name="sluice_encoded_images", kind=_C, meaning="Images encoded; those found in the cache are not"),
    MetricSpec(name="sluice_encoded_tokens", kind=_C, meaning="Embeddings made"),
    MetricSpec(
        name="sluice_embedding_blocks",
        kind=_G,
        labels=("state",),
        meaning="Blocks of images' embeddings by state, on a worker that reads them",
    ),
    MetricSpec(name="sluice_unusable_links", kind=_G, meaning="Links to peers that are slow or failing: not used"),
    MetricSpec(name="sluice_ready", kind=_G, meaning="1 while the worker admits work, else 0"),
)

PROCESS_METRICS: Final = (
    MetricSpec(
        name="sluice_dropped_spans", kind=_G, meaning="Trace spans lost since start: full queue or no collector"
    ),
)
