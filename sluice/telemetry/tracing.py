"""One trace per request over all processes; off unless configured, and then free.

    router:          request = start_trace(REQUEST, parent=header)   the only place traces begin
                     placed  = start_span(PLACEMENT, parent=request.traceparent)
    on the wire:     SequenceState.traceparent = request.traceparent
    any worker:      record_span(TRANSFER, parent=state.traceparent, start_ns=..., end_ns=...)

A span whose parent is "" belongs to a request that is not traced, and is not recorded: so one
decision, made where the trace begins, holds in every process. A process begins a bounded number
of traces a second: every request is traced while there are few, and tracing never takes more
than about a percent of a core when there are many. Never sees prompts or answers.
Names and attributes: `attributes.py`. Delivery: `trace_export.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, assert_never

from sluice import clock
from sluice.telemetry.attributes import Attributes, SpanName
from sluice.telemetry.span import (
    INERT,
    TRACEPARENT_CHARS,
    RecordingSpan,
    Span,
    new_trace_id,
    parse_traceparent,
)
from sluice.telemetry.trace_export import BatchExporter, FileSink, HttpSink

TRACES_PER_S_MAX: Final = 100
_NS_PER_S: Final = 1_000_000_000


class Exporter(Enum):
    """Where traces go."""

    NONE = "none"
    FILE = "file"
    OTLP = "otlp"


@dataclass(slots=True)
class _Process:
    """This process's tracing, replaced by configure() and shutdown() only."""

    exporter: BatchExporter | None = None
    budget: "TraceBudget" = field(default_factory=lambda: TraceBudget(traces_per_s_max=TRACES_PER_S_MAX))


@dataclass(slots=True, kw_only=True)
class TraceBudget:
    """How many more traces may begin in the current second of wall time."""

    traces_per_s_max: int
    second: int = 0
    left: int = 0

    def take(self, now_ns: int) -> bool:
        """Whether one more trace may begin at `now_ns`."""
        second = now_ns // _NS_PER_S
        if second != self.second:
            self.second, self.left = second, self.traces_per_s_max
        self.left -= 1
        return self.left >= 0


_process: Final = _Process()


def configure(
    *,
    exporter: Exporter,
    service: str,
    endpoint_or_path: str = "",
    attributes: Mapping[str, str] | None = None,
    traces_per_s_max: int = TRACES_PER_S_MAX,
) -> None:
    """Start tracing, once per process; with Exporter.NONE nothing happens.

    `service` is e.g. "sluice-router"; `attributes` describe the process (worker id, version).
    `traces_per_s_max` bounds what start_trace() begins or joins; other spans follow their trace.
    Raises ConfigError if the file or the endpoint cannot be used.
    """
    assert _process.exporter is None, "tracing is configured once; shutdown() comes first"
    resource = {"service.name": service, **(attributes or {})}
    match exporter:
        case Exporter.NONE:
            return
        case Exporter.FILE:
            _process.exporter = BatchExporter(FileSink(Path(endpoint_or_path)), resource=resource)
        case Exporter.OTLP:
            _process.exporter = BatchExporter(HttpSink(endpoint_or_path), resource=resource)
        case _:
            assert_never(exporter)
    _process.budget = TraceBudget(traces_per_s_max=traces_per_s_max)


def is_on() -> bool:
    """Whether spans are recorded: ask before building attributes on a hot path."""
    return _process.exporter is not None


def start_trace(name: SpanName, *, parent: str = "", attributes: Attributes | None = None) -> Span:
    """Begin a request's trace, or join the one in a client's `traceparent` header (a malformed one is ignored).

    Inert when the client says "not sampled", or when this second's traces are used up.
    """
    exporter = _process.exporter
    if exporter is None:
        return INERT
    start_ns = clock.wall_ns()
    trace_id, parent_span_id, is_sampled = (parse_traceparent(parent) if parent else None) or (new_trace_id(), "", True)
    if not is_sampled or not _process.budget.take(start_ns):
        return INERT
    return RecordingSpan(
        name,
        collector=exporter,
        trace_id=trace_id,
        parent_span_id=parent_span_id,
        start_ns=start_ns,
        attributes=attributes,
    )


def start_span(
    name: SpanName, *, parent: str, attributes: Attributes | None = None, start_ns: int | None = None
) -> Span:
    """A child of `parent`, which is another span's `traceparent`; inert when that is empty or tracing is off."""
    exporter = _process.exporter
    if exporter is None or len(parent) != TRACEPARENT_CHARS:
        return INERT
    return RecordingSpan(
        name,
        collector=exporter,
        trace_id=parent[3:35],
        parent_span_id=parent[36:52],
        start_ns=clock.wall_ns() if start_ns is None else start_ns,
        attributes=attributes,
    )


def record_span(
    name: SpanName,
    *,
    parent: str,
    start_ns: int,
    end_ns: int,
    attributes: Attributes | None = None,
    error: str | None = None,
) -> None:
    """Record a stretch that is already over, with wall-clock times in nanoseconds since the epoch."""
    start_span(name, parent=parent, attributes=attributes, start_ns=start_ns).end(error=error, end_ns=end_ns)


def dropped_spans() -> int:
    """Spans lost since configure(): a full queue or an unreachable collector."""
    return 0 if _process.exporter is None else _process.exporter.dropped_spans


def shutdown(*, timeout_s: float = 3.0) -> None:
    """Deliver what is queued and turn tracing off; never takes longer than `timeout_s`. Idempotent."""
    exporter, _process.exporter = _process.exporter, None
    if exporter is not None:
        exporter.close(timeout_s=timeout_s)
