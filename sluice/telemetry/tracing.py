"""One trace per request over all processes; off unless configured, and then free.

    router:          request = start_trace(REQUEST, parent=header)   the only place traces begin
                     placed  = start_span(PLACEMENT, parent=request.traceparent)
    on the wire:     SequenceState.traceparent = request.traceparent
    any worker:      record_span(TRANSFER, parent=state.traceparent, start_ns=..., end_ns=...)

A span whose parent is "" belongs to a request that is not traced, and is not recorded: so one
decision, made where the trace begins, holds in every process. Never sees prompts or answers.
Names and attributes: `attributes.py`. Delivery: `trace_export.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, assert_never

from sluice import clock
from sluice.errors import ConfigError
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

_SAMPLE_STEPS: Final = 1 << 32


class Exporter(Enum):
    """Where traces go."""

    NONE = "none"
    FILE = "file"
    OTLP = "otlp"


@dataclass(slots=True)
class _Process:
    """This process's tracing, replaced by configure() and shutdown() only."""

    exporter: BatchExporter | None = None
    sample_below: int = 0


_process: Final = _Process()


def configure(
    *,
    exporter: Exporter,
    service: str,
    endpoint_or_path: str = "",
    attributes: Mapping[str, str] | None = None,
    sample_ratio: float = 1.0,
) -> None:
    """Start tracing, once per process; with Exporter.NONE nothing happens.

    `service` is e.g. "sluice-router"; `attributes` describe the process (worker id, version).
    `sample_ratio` is the share of requests traced, unless the client's own traceparent decides.
    Raises ConfigError if the file or the endpoint cannot be used.
    """
    assert _process.exporter is None, "tracing is configured once; shutdown() comes first"
    if not 0.0 <= sample_ratio <= 1.0:
        raise ConfigError(f"trace sample ratio: is {sample_ratio:g}; use a number from 0 to 1")
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
    _process.sample_below = round(sample_ratio * _SAMPLE_STEPS)


def is_on() -> bool:
    """Whether spans are recorded: ask before building attributes on a hot path."""
    return _process.exporter is not None


def start_trace(name: SpanName, *, parent: str = "", attributes: Attributes | None = None) -> Span:
    """Begin a request's trace, or join the one in a client's `traceparent` header (a malformed one is ignored).

    A client that says "not sampled" is obeyed.
    """
    exporter = _process.exporter
    if exporter is None:
        return INERT
    joined = parse_traceparent(parent) if parent else None
    if joined is None:
        trace_id, parent_span_id = new_trace_id(), ""
        if int(trace_id[-8:], 16) >= _process.sample_below:
            return INERT
    else:
        trace_id, parent_span_id, is_sampled = joined
        if not is_sampled:
            return INERT
    return RecordingSpan(
        name,
        collector=exporter,
        trace_id=trace_id,
        parent_span_id=parent_span_id,
        start_ns=clock.wall_ns(),
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
