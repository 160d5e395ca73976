"""Sends finished spans away in batches, as OTLP JSON: lines of a file, or POSTs to a collector.

A span is encoded at once by the thread that ends it, so that waiting spans are plain bytes,
which the garbage collector never looks at. One daemon thread writes. A full queue or a
collector that does not answer costs spans, counted in `dropped_spans`, and never a request.
The encoding is the OTLP protobuf's JSON mapping
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).
Why not the OpenTelemetry SDK: docs/adr/0009-libraries.md has the figures.
"""

import http.client
import logging
import threading
import urllib.parse
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from sluice.errors import ConfigError
from sluice.telemetry.attributes import Attributes, AttributeValue, SpanName
from sluice.telemetry.span import RecordingSpan

QUEUE_SPANS_MAX: Final = 16_384
BATCH_SPANS_MAX: Final = 1_024
INTERVAL_S: Final = 1.0
POST_TIMEOUT_S: Final = 5.0
_KIND_INTERNAL: Final = 1
_KIND_SERVER: Final = 2
_STATUS_ERROR: Final = 2
_OK_STATUS_END: Final = 300
_INT64_END: Final = 1 << 63
_PLAIN_FIELDS: Final[dict[type, str]] = {str: "stringValue", bool: "boolValue", float: "doubleValue"}

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where encoded batches go."""

    def write(self, payload: bytes) -> None:
        """Deliver one batch. Raises OSError or http.client.HTTPException if it did not arrive."""
        ...

    def close(self) -> None: ...


class FileSink:
    """One line per batch. Several processes may share a file: each line is one append."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise ConfigError(f"trace file: cannot open '{path}' ({error.strerror}); name a writable path") from error

    def write(self, payload: bytes) -> None:
        self._file.write(payload + b"\n")

    def close(self) -> None:
        self._file.close()


class HttpSink:
    """OTLP over HTTP with JSON bodies, on one kept connection."""

    def __init__(self, endpoint: str) -> None:
        url = urllib.parse.urlsplit(endpoint)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ConfigError(f"OTLP endpoint: '{endpoint}' is not a URL; use e.g. http://collector:4318")
        self._path = url.path if url.path.strip("/") else "/v1/traces"
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(url.hostname, url.port or 4318, timeout=POST_TIMEOUT_S)

    def write(self, payload: bytes) -> None:
        try:
            self._connection.request("POST", self._path, payload, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()  # the next batch dials again
            raise
        if answer.status >= _OK_STATUS_END:
            raise OSError(f"collector answered {answer.status} {answer.reason}")

    def close(self) -> None:
        self._connection.close()


class BatchExporter:
    """A SpanCollector that owns a sink and the thread that feeds it. Every method may be called from any thread."""

    def __init__(self, sink: Sink, *, resource: Attributes) -> None:
        self._refused_spans = 0  # written by threads that end spans
        self._undelivered_spans = 0  # written by the exporting thread
        self._sink = sink
        self._head, self._tail = _envelope(resource)
        self._queue: deque[bytes] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="sluice-traces", daemon=True)
        self._thread.start()

    @property
    def dropped_spans(self) -> int:
        """Spans lost so far."""
        return self._refused_spans + self._undelivered_spans

    def accept(self, span: RecordingSpan) -> None:
        """Encode and queue a finished span; drop and count it when the queue is full."""
        if len(self._queue) >= QUEUE_SPANS_MAX or self._stopping:
            self._refused_spans += 1
            return
        self._queue.append(orjson.dumps(_span_json(span)))
        if len(self._queue) == BATCH_SPANS_MAX:
            self._wake.set()

    def close(self, *, timeout_s: float) -> None:
        """Export what is queued and stop; gives up after `timeout_s`. Idempotent."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(INTERVAL_S)
            self._wake.clear()
            self._drain()
        self._drain()
        self._sink.close()

    def _drain(self) -> None:
        for _ in range(-(-len(self._queue) // BATCH_SPANS_MAX)):
            batch = [self._queue.popleft() for _ in range(min(BATCH_SPANS_MAX, len(self._queue)))]
            try:
                self._sink.write(self._head + b",".join(batch) + self._tail)
            except (OSError, http.client.HTTPException) as error:
                self._undelivered_spans += len(batch)
                if not self._is_failing:
                    _log.warning("traces are not delivered: %s; spans are dropped until this ends", error)
                self._is_failing = True
            else:
                self._is_failing = False


def _envelope(resource: Attributes) -> tuple[bytes, bytes]:
    """What stands before and after the comma-separated spans of an OTLP ExportTraceServiceRequest."""
    scope_spans = {"scope": {"name": "sluice"}, "spans": []}
    request = {"resourceSpans": [{"resource": {"attributes": _attributes_json(resource)}, "scopeSpans": [scope_spans]}]}
    head, _, tail = orjson.dumps(request).rpartition(b"[]")
    return head + b"[", b"]" + tail


def _span_json(span: RecordingSpan) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": span.name.value,
        "kind": _KIND_SERVER if span.name is SpanName.REQUEST else _KIND_INTERNAL,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes_json(span.attributes),
    }
    if span.parent_span_id:
        fields["parentSpanId"] = span.parent_span_id
    if span.error is not None:
        fields["status"] = {"code": _STATUS_ERROR, "message": span.error}
    return fields


def _attributes_json(attributes: Attributes) -> list[dict[str, Any]]:
    plain = _PLAIN_FIELDS
    return [
        {"key": key, "value": {plain[type(value)]: value} if type(value) in plain else _other_value(value)}
        for key, value in attributes.items()
    ]


def _other_value(value: AttributeValue) -> dict[str, Any]:
    if isinstance(value, int):
        # As text, because a JSON number holds 53 bits; and a collector refuses a whole batch over one that is no int64.
        return {"intValue": str(value)} if -_INT64_END <= value < _INT64_END else {"stringValue": str(value)}
    assert isinstance(value, Sequence), "attributes are text, numbers, booleans or sequences of text"
    return {"arrayValue": {"values": [{"stringValue": item} for item in value]}}
