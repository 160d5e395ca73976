"""What each process counts, bound once so that counting is an addition.

RouterMetrics and WorkerMetrics turn the table of `metric_table.py` into Prometheus
instruments on a registry of their own; `exposition()` is the text of `/metrics`. Decides no
names and keeps no history. Served by `metrics_server.py`.
"""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest

from sluice.telemetry import tracing
from sluice.telemetry.histogram import Histogram, HistogramChild
from sluice.telemetry.metric_table import (
    PROCESS_METRICS,
    ROUTER_METRICS,
    WORKER_METRICS,
    BlockState,
    Direction,
    HandoffResult,
    MetricSpec,
    MigrationResult,
    Objective,
    Outcome,
    PlacementKind,
    WishKind,
)


class _Instruments:
    """The table's rows as live instruments on one registry."""

    def __init__(self, specs: Iterable[MetricSpec]) -> None:
        # Creation times double the exposition and have no reader.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it unannotated
        self.registry = CollectorRegistry(auto_describe=False)
        self._specs = {spec.name: spec for spec in (*specs, *PROCESS_METRICS)}
        self.gauge("sluice_dropped_spans").set_function(tracing.dropped_spans)

    def counter(self, name: str) -> Counter:
        spec = self._specs[name]
        return Counter(spec.name, spec.meaning, spec.labels, registry=self.registry)

    def gauge(self, name: str) -> Gauge:
        spec = self._specs[name]
        return Gauge(spec.name, spec.meaning, spec.labels, registry=self.registry)

    def histogram(self, name: str) -> Histogram:
        spec = self._specs[name]
        family = Histogram(spec.name, spec.meaning, labels=spec.labels, bounds=spec.buckets)
        self.registry.register(family)
        return family


class RouterMetrics:
    """Everything one router counts. Any thread may call any method."""

    def __init__(self, *, queue_requests_max: int, hold_s: float = 0.0) -> None:
        make = _Instruments(ROUTER_METRICS)
        self._registry = make.registry
        requests, misses = make.counter("sluice_requests"), make.counter("sluice_slo_misses")
        placements, handoffs = make.counter("sluice_placements"), make.counter("sluice_handoffs")
        self._requests = {outcome: requests.labels(outcome.value) for outcome in Outcome}
        self._misses = {objective: misses.labels(objective.value) for objective in Objective}
        self._placements = {kind: placements.labels(kind.value) for kind in PlacementKind}
        self._handoffs = {result: handoffs.labels(result.value) for result in HandoffResult}
        migrations = make.counter("sluice_migrations")
        self._migrations = {result: migrations.labels(result.value) for result in MigrationResult}
        self._frozen = make.histogram("sluice_migration_frozen_seconds").labels()
        self._ttft = make.histogram("sluice_ttft_seconds").labels()
        self._tpot = make.histogram("sluice_tpot_seconds").labels()
        self._itl = make.histogram("sluice_itl_seconds").labels()
        self._request = make.histogram("sluice_request_seconds").labels()
        self._queue = make.histogram("sluice_queue_seconds").labels()
        self._goodput = make.counter("sluice_goodput_requests")
        self._prompt_tokens = make.counter("sluice_prompt_tokens")
        self._cached_tokens = make.counter("sluice_cached_tokens")
        self._output_tokens = make.counter("sluice_output_tokens")
        images = make.counter("sluice_images")
        self._images = {True: images.labels("known"), False: images.labels("new")}
        self._images_redone = make.counter("sluice_images_redone")
        self._images_seconds = make.histogram("sluice_images_seconds").labels()
        self._workers = make.gauge("sluice_workers")
        self._wishes = make.counter("sluice_wishes")
        self._flips = make.counter("sluice_flips")
        self.queue_requests = make.gauge("sluice_queue_requests")
        self.inflight_requests = make.gauge("sluice_inflight_requests")
        self.held_requests = make.gauge("sluice_held_requests")
        make.gauge("sluice_queue_requests_max").set(queue_requests_max)
        make.gauge("sluice_hold_seconds").set(hold_s)

    def placed(self, kind: PlacementKind, *, queue_s: float) -> None:
        """A sequence got its workers after waiting `queue_s`."""
        self._placements[kind].inc()
        self._queue.observe(queue_s)

    def handed_off(self, result: HandoffResult) -> None:
        """A handoff ended."""
        self._handoffs[result].inc()

    def migrated(self, result: MigrationResult, *, frozen_s: float) -> None:
        """A migration ended; `frozen_s` counts only if the sequence moved."""
        self._migrations[result].inc()
        if result is MigrationResult.MOVED:
            self._frozen.observe(frozen_s)

    def wished(self, kind: WishKind, result: str) -> None:
        """The policy wished to change something; `result` is `begun` or why it was held."""
        self._wishes.labels(kind.value, result).inc()

    def flipped(self, *, is_done: bool) -> None:
        """A worker's change of role is over."""
        self._flips.labels("done" if is_done else "failed").inc()

    def first_token(self, *, ttft_s: float) -> None:
        """The first token of a request was sent."""
        self._ttft.observe(ttft_s)
        self._output_tokens.inc()

    def more_tokens(self, gaps_s: Sequence[float]) -> None:
        """Tokens after the first were sent, each with the gap before it; call once per message, not per token."""
        self._itl.observe_many(gaps_s)
        self._output_tokens.inc(len(gaps_s))

    def prompt(self, *, prompt_tokens: int, cached_tokens: int) -> None:
        """A request's prompt was computed, `cached_tokens` of it found in a prefix cache."""
        self._prompt_tokens.inc(prompt_tokens)
        self._cached_tokens.inc(cached_tokens)

    def ended(
        self, outcome: Outcome, *, request_s: float, tpot_s: float | None = None, missed: Sequence[Objective] = ()
    ) -> None:
        """A request ended, missing the objectives `missed`. `tpot_s` is None with fewer than two output tokens."""
        self._requests[outcome].inc()
        if outcome is Outcome.COMPLETED:
            self._request.observe(request_s)
            if tpot_s is not None:
                self._tpot.observe(tpot_s)
            if not missed:
                self._goodput.inc()
        for objective in missed:
            self._misses[objective].inc()

    def image(self, *, is_known: bool) -> None:
        """A prompt with this picture has been accepted."""
        self._images[is_known].inc()

    def image_redone(self) -> None:
        """An image is encoded or sent once more."""
        self._images_redone.inc()

    def images_shown(self, *, seconds: float) -> None:
        """All images of a prompt have come, `seconds` after it started at its worker."""
        self._images_seconds.observe(seconds)

    def set_workers(self, role: str, *, workers: int) -> None:
        """How many workers of `role` are joined and ready."""
        self._workers.labels(role).set(workers)

    def exposition(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self._registry)


class _TransferCounters:
    """The counters of one (transport, direction)."""

    __slots__ = ("bytes", "done", "failed", "seconds")

    def __init__(
        self, *, transfers: Counter, moved: Counter, seconds: Histogram, transport: str, direction: Direction
    ) -> None:
        self.done = transfers.labels(transport, direction.value, "done")
        self.failed = transfers.labels(transport, direction.value, "failed")
        self.bytes = moved.labels(transport, direction.value)
        self.seconds: HistogramChild = seconds.labels(transport, direction.value)


class WorkerMetrics:
    """Everything one worker counts. Any thread may call any method."""

    def __init__(self) -> None:
        make = _Instruments(WORKER_METRICS)
        self._registry = make.registry
        blocks = make.gauge("sluice_kv_blocks")
        self._blocks = {state: blocks.labels(state.value) for state in BlockState}
        self._transfers = make.counter("sluice_transfers")
        self._transfer_bytes = make.counter("sluice_transfer_bytes")
        self._transfer_seconds = make.histogram("sluice_transfer_seconds")
        self._links: dict[tuple[str, Direction], _TransferCounters] = {}
        self._step = make.histogram("sluice_step_seconds").labels()
        self._batch = make.histogram("sluice_batch_sequences").labels()
        self._exposed = make.histogram("sluice_handoff_exposed_seconds").labels()
        self._preemptions = make.counter("sluice_preemptions")
        self._prefill_tokens = make.counter("sluice_prefill_tokens")
        self._decode_tokens = make.counter("sluice_decode_tokens")
        self._failures = make.counter("sluice_sequence_failures")
        self.orphan_blocks = make.gauge("sluice_kv_orphan_blocks")
        self.leases = make.gauge("sluice_leases")
        self.orphans = make.gauge("sluice_orphans")
        self.quarantined_bytes = make.gauge("sluice_quarantined_bytes")
        self.running_sequences = make.gauge("sluice_running_sequences")
        self.waiting_sequences = make.gauge("sluice_waiting_sequences")
        self.ready = make.gauge("sluice_ready")
        self.unusable_links = make.gauge("sluice_unusable_links")
        self._probes = make.counter("sluice_probes")
        pictures = make.counter("sluice_pictures")
        self._prepared, self._refused = pictures.labels("prepared"), pictures.labels("refused")
        self._prepare = make.histogram("sluice_prepare_seconds").labels()
        self._encode = make.histogram("sluice_encode_seconds").labels()
        self._encoded_images = make.counter("sluice_encoded_images")
        self._encoded_tokens = make.counter("sluice_encoded_tokens")
        embeddings = make.gauge("sluice_embedding_blocks")
        self._embeddings = {state: embeddings.labels(state.value) for state in BlockState}

    def stepped(
        self, *, seconds: float, prefill_tokens: int, decode_sequences: int, preempted: int, failed: int
    ) -> None:
        """One engine step ended; the numbers of an engine's StepReport."""
        self._step.observe(seconds)
        if decode_sequences:
            self._batch.observe(decode_sequences)
            self._decode_tokens.inc(decode_sequences)
        if prefill_tokens:
            self._prefill_tokens.inc(prefill_tokens)
        if preempted:
            self._preemptions.inc(preempted)
        if failed:
            self._failures.inc(failed)

    def set_blocks(self, *, total: int, free: int, cached: int, active: int, held: int, reserved: int) -> None:
        """Where every block of the pool is now; what is nowhere has leaked. Call per heartbeat, not per step."""
        self.orphan_blocks.set(total - free - cached - active - held - reserved)
        self._blocks[BlockState.FREE].set(free)
        self._blocks[BlockState.CACHED].set(cached)
        self._blocks[BlockState.ACTIVE].set(active)
        self._blocks[BlockState.HELD].set(held)
        self._blocks[BlockState.RESERVED].set(reserved)

    def set_embedding_blocks(self, *, free: int, cached: int, active: int, held: int, reserved: int) -> None:
        """Where every block of the embedding store is now."""
        self._embeddings[BlockState.FREE].set(free)
        self._embeddings[BlockState.CACHED].set(cached)
        self._embeddings[BlockState.ACTIVE].set(active)
        self._embeddings[BlockState.HELD].set(held)
        self._embeddings[BlockState.RESERVED].set(reserved)

    def picture_prepared(self, *, seconds: float) -> None:
        """A picture is ready for the vision tower, `seconds` after it came."""
        self._prepared.inc()
        self._prepare.observe(seconds)

    def picture_refused(self) -> None:
        """A picture cannot be shown to the model."""
        self._refused.inc()

    def encoded(self, images: int, tokens: int, seconds: float) -> None:
        """The vision tower has made `tokens` embeddings of `images` in one forward pass."""
        self._encode.observe(seconds)
        self._encoded_images.inc(images)
        self._encoded_tokens.inc(tokens)

    def transferred(self, *, transport: str, direction: Direction, moved_bytes: int, seconds: float | None) -> None:
        """A transfer over `transport` completed; `seconds` is None where only the other side can time it."""
        link = self._link(transport, direction)
        link.done.inc()
        link.bytes.inc(moved_bytes)
        if seconds is not None:
            link.seconds.observe(seconds)

    def transfer_failed(self, *, transport: str, direction: Direction) -> None:
        """A transfer over `transport` did not complete."""
        self._link(transport, direction).failed.inc()

    def probed(self, result: str) -> None:
        """A probe of a link has ended."""
        self._probes.labels(result).inc()

    def handed_off(self, *, exposed_s: float) -> None:
        """A decode worker took a sequence over, `exposed_s` after its first token was chosen."""
        self._exposed.observe(exposed_s)

    def exposition(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self._registry)

    def _link(self, transport: str, direction: Direction) -> _TransferCounters:
        link = self._links.get((transport, direction))
        if link is None:
            link = self._links[transport, direction] = _TransferCounters(
                transfers=self._transfers,
                moved=self._transfer_bytes,
                seconds=self._transfer_seconds,
                transport=transport,
                direction=direction,
            )
        return link
