"""Tracing: nothing when off, one trace over processes when on, and OTLP that others can read."""

import gc
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sluice.errors import ConfigError
from sluice.telemetry import attributes, span, trace_export, tracing
from sluice.telemetry.attributes import SpanName
from sluice.telemetry.tracing import Exporter, TraceBudget


@pytest.fixture(autouse=True)
def tracing_ends() -> Iterator[None]:
    yield
    tracing.shutdown()


def trace_to(path: Path, *, service: str = "sluice-router", traces_per_s_max: int = 100) -> None:
    tracing.configure(
        exporter=Exporter.FILE, service=service, endpoint_or_path=str(path), traces_per_s_max=traces_per_s_max
    )


def spans_in(path: Path) -> list[dict[str, str]]:
    spans = []
    for line in path.read_text().splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                spans.extend(scope["spans"])
    return spans


def test_tracing_that_is_off_hands_out_one_shared_span_and_creates_no_object() -> None:
    assert not tracing.is_on()
    assert tracing.start_trace(SpanName.REQUEST) is span.INERT
    assert tracing.start_span(SpanName.QUEUE, parent="00-" + "a" * 32 + "-" + "b" * 16 + "-01") is span.INERT
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(1000):
            tracing.start_span(SpanName.QUEUE, parent="").end()
            tracing.record_span(SpanName.TRANSFER, parent="", start_ns=1, end_ns=2)
        after = len(gc.get_objects())
    finally:
        gc.enable()
    assert after - before < 10  # nothing per call; the bound leaves room for the test's own locals


def test_an_inert_span_carries_no_trace_context_and_ignores_its_end() -> None:
    span.INERT.describe({"a": 1})
    span.INERT.end({"a": 1}, error="x", end_ns=3)
    assert span.INERT.traceparent == ""
    assert not span.INERT.is_recording


def test_a_request_that_is_not_traced_stays_untraced_in_every_process(tmp_path: Path) -> None:
    trace_to(tmp_path / "t.jsonl", traces_per_s_max=0)
    root = tracing.start_trace(SpanName.REQUEST)
    assert root is span.INERT
    assert tracing.start_span(SpanName.PREFILL, parent=root.traceparent) is span.INERT


def test_spans_of_two_processes_form_one_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    trace_to(path)
    root = tracing.start_trace(SpanName.REQUEST, attributes={attributes.REQUEST_MODEL: "m"})
    child = (
        "import sys\n"
        "from sluice.telemetry import tracing\n"
        "from sluice.telemetry.attributes import SpanName\n"
        "tracing.configure(exporter=tracing.Exporter.FILE, service='sluice-worker', endpoint_or_path=sys.argv[1])\n"
        "prefill = tracing.start_span(SpanName.PREFILL, parent=sys.argv[2])\n"
        "tracing.record_span(SpanName.TRANSFER, parent=prefill.traceparent, start_ns=10, end_ns=20)\n"
        "prefill.end()\n"
        "tracing.shutdown()\n"
    )
    subprocess.run([sys.executable, "-c", child, str(path), root.traceparent], check=True, timeout=60)
    root.end()
    tracing.shutdown()
    spans = {found["name"]: found for found in spans_in(path)}
    assert set(spans) == {"request", "prefill", "transfer"}
    assert len({found["traceId"] for found in spans.values()}) == 1
    assert spans["prefill"]["parentSpanId"] == spans["request"]["spanId"]
    assert spans["transfer"]["parentSpanId"] == spans["prefill"]["spanId"]
    assert "parentSpanId" not in spans["request"]
    assert (spans["transfer"]["startTimeUnixNano"], spans["transfer"]["endTimeUnixNano"]) == ("10", "20")


def test_file_lines_are_otlp_that_the_official_protobuf_accepts(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "t.jsonl"
    trace_to(path)
    root = tracing.start_trace(SpanName.REQUEST, attributes={"text": "e"})
    root.describe({"text": "é", "count": 2**40, "id": 2**64 - 1, "ratio": 0.5, "yes": True})
    root.end({attributes.RESPONSE_FINISH_REASONS: ("stop", "length")}, error="unavailable")
    tracing.shutdown()
    (line,) = path.read_text().splitlines()
    message = json_format.Parse(line, ExportTraceServiceRequest())
    (resource,) = message.resource_spans
    assert [(pair.key, pair.value.string_value) for pair in resource.resource.attributes] == [
        ("service.name", "sluice-router")
    ]
    (found,) = resource.scope_spans[0].spans
    values = {pair.key: pair.value for pair in found.attributes}
    assert values["text"].string_value == "é"
    assert values["count"].int_value == 2**40
    assert values["id"].string_value == str(2**64 - 1)
    assert values["ratio"].double_value == 0.5
    assert values["yes"].bool_value is True
    assert [item.string_value for item in values[attributes.RESPONSE_FINISH_REASONS].array_value.values] == [
        "stop",
        "length",
    ]
    assert (found.kind, found.status.code, found.status.message) == (2, 2, "unavailable")
    assert values[attributes.ERROR_TYPE].string_value == "unavailable"
    assert 0 < found.start_time_unix_nano <= found.end_time_unix_nano


def test_a_clients_trace_is_joined_and_its_sampling_flag_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    trace_to(path)
    joined = tracing.start_trace(SpanName.REQUEST, parent=f"00-{'a' * 32}-{'b' * 16}-01")
    joined.end()
    assert tracing.start_trace(SpanName.REQUEST, parent=f"00-{'a' * 32}-{'b' * 16}-00") is span.INERT
    tracing.shutdown()
    (found,) = spans_in(path)
    assert (found["traceId"], found["parentSpanId"]) == ("a" * 32, "b" * 16)


def test_a_second_has_room_for_so_many_traces_and_the_next_one_again() -> None:
    budget = TraceBudget(traces_per_s_max=3)
    second_ns = 1_000_000_000
    taken = [budget.take(now_ns) for now_ns in (7 * second_ns, 7 * second_ns + 1, 8 * second_ns - 1, 8 * second_ns - 1)]
    assert taken == [True, True, True, False]
    assert budget.take(8 * second_ns)


@pytest.mark.parametrize(
    "header",
    ["garbage", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'0' * 16}-01", f"ff-{'A' * 32}-{'b' * 16}-01"],
)
def test_a_malformed_traceparent_starts_a_new_trace(tmp_path: Path, header: str) -> None:
    trace_to(tmp_path / "t.jsonl")
    started = tracing.start_trace(SpanName.REQUEST, parent=header)
    assert started.is_recording
    assert span.parse_traceparent(started.traceparent) is not None
    assert "a" * 32 not in started.traceparent


def test_a_span_is_exported_once_however_often_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    trace_to(path)
    root = tracing.start_trace(SpanName.REQUEST)
    root.end()
    root.end(error="late")
    tracing.shutdown()
    (found,) = spans_in(path)
    assert "status" not in found


class _StuckSink:
    """A sink whose writes wait for `go`, then raise."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def write(self, payload: bytes) -> None:
        self.go.wait(30)
        raise OSError("no collector")

    def close(self) -> None:
        pass


def _finished(exporter: trace_export.BatchExporter) -> None:
    made = span.RecordingSpan(
        SpanName.QUEUE,
        collector=exporter,
        trace_id=span.new_trace_id(),
        parent_span_id="",
        start_ns=1,
        attributes=None,
    )
    made.end(end_ns=2)


def test_a_dead_collector_costs_spans_and_never_memory() -> None:
    sink = _StuckSink()
    exporter = trace_export.BatchExporter(sink, resource={})
    total = 3 * trace_export.QUEUE_SPANS_MAX
    for _ in range(total):
        _finished(exporter)
    queued_max = trace_export.QUEUE_SPANS_MAX + trace_export.BATCH_SPANS_MAX
    assert exporter.dropped_spans >= total - queued_max
    exporter.close(timeout_s=0.01)  # returns although the sink is stuck
    sink.go.set()
    exporter.close(timeout_s=30)
    assert exporter.dropped_spans == total


class _Collector(http.server.BaseHTTPRequestHandler):
    bodies: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.bodies.append((self.path, self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_otlp_posts_json_to_the_collectors_trace_path() -> None:
    _Collector.bodies = []
    server = http.server.HTTPServer(("127.0.0.1", 0), _Collector)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        tracing.configure(
            exporter=Exporter.OTLP, service="r", endpoint_or_path=f"http://127.0.0.1:{server.server_address[1]}"
        )
        tracing.start_trace(SpanName.REQUEST).end()
        tracing.shutdown(timeout_s=30)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
    ((path, body),) = _Collector.bodies
    assert path == "/v1/traces"
    assert len(json_format.Parse(body, ExportTraceServiceRequest()).resource_spans) == 1


@pytest.mark.parametrize("endpoint", ["", "collector:4318", "ftp://x"])
def test_a_wrong_endpoint_is_refused_with_a_remedy(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="is not a URL; use"):
        tracing.configure(exporter=Exporter.OTLP, service="r", endpoint_or_path=endpoint)
    assert not tracing.is_on()


def test_a_trace_file_that_cannot_be_opened_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="writable path"):
        trace_to(tmp_path)


def test_every_attribute_constant_is_in_the_reference_table() -> None:
    constants = {
        value
        for name, value in vars(attributes).items()
        if name.isupper() and isinstance(value, str) and name != "PROVIDER"
    }
    assert constants == {row.name for row in attributes.ATTRIBUTES}
