"""What telemetry costs: CPU microseconds per span, per streamed token, per request; beside the OpenTelemetry SDK.

Run `python benchmarks/telemetry.py`. Each figure is the median of ROUNDS rounds of process CPU
time, so encoding and delivery on background threads count. Peers run in the same process and
the same round: the OpenTelemetry SDK's batch processor with protobuf encoding, and
prometheus_client's own histogram.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as PeerCounter
from prometheus_client import Histogram as PeerHistogram

from sluice.telemetry import attributes, tracing
from sluice.telemetry.attributes import Attributes, SpanName
from sluice.telemetry.metric_table import ROUTER_METRICS, Outcome, PlacementKind
from sluice.telemetry.metrics import RouterMetrics

ROUNDS = 7
CALLS = 10_000
TOKENS_PER_MESSAGE = 8
ROUTER_SPANS_PER_REQUEST = 4
ROUTER_US_PER_REQUEST = 900.0  # the router's own budget, without telemetry

REQUEST: Attributes = {
    attributes.OPERATION_NAME: "chat",
    attributes.PROVIDER_NAME: attributes.PROVIDER,
    attributes.REQUEST_MODEL: "demo",
    attributes.REQUEST_MAX_TOKENS: 128,
    attributes.REQUEST_ID: "chatcmpl-0123456789abcdef",
}
RESULT: Attributes = {attributes.INPUT_TOKENS: 512, attributes.OUTPUT_TOKENS: 128, attributes.TTFT_S: 0.123}


class _EncodeOnly(SpanExporter):
    """Encodes as the OTLP exporter does and keeps nothing, so that no network is measured."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


def spans_off() -> None:
    """Tracing that is not configured."""
    for _ in range(CALLS):
        tracing.start_span(SpanName.QUEUE, parent="").end()


def spans_on() -> None:
    """Sluice's spans, encoded and written to a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "traces.jsonl")
        tracing.configure(exporter=tracing.Exporter.FILE, service="sluice-router", endpoint_or_path=path)
        for _ in range(CALLS):
            tracing.start_trace(SpanName.REQUEST, attributes=REQUEST).end(RESULT)
        tracing.shutdown(timeout_s=60)


def spans_of_the_sdk() -> None:
    """The peer: the same spans through the OpenTelemetry SDK."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(_EncodeOnly(), max_queue_size=2 * CALLS))
    tracer = provider.get_tracer("sluice")
    for _ in range(CALLS):
        span = tracer.start_span("request", attributes=REQUEST)
        span.set_attributes(RESULT)
        span.end()
    provider.shutdown()


def token_gaps() -> None:
    """Gaps and token counts of messages of TOKENS_PER_MESSAGE tokens, per token."""
    metrics = RouterMetrics(queue_requests_max=1)
    gaps_s = (0.01,) * TOKENS_PER_MESSAGE
    for _ in range(CALLS // TOKENS_PER_MESSAGE):
        metrics.more_tokens(gaps_s)


def token_gaps_of_the_peer() -> None:
    """The same with prometheus_client's histogram and counter."""
    registry = CollectorRegistry()
    buckets = next(spec.buckets for spec in ROUTER_METRICS if spec.name == "sluice_itl_seconds")
    gaps = PeerHistogram("itl_seconds", "gaps", buckets=buckets, registry=registry)
    tokens = PeerCounter("output_tokens", "tokens", registry=registry)
    for _ in range(CALLS // TOKENS_PER_MESSAGE):
        for _ in range(TOKENS_PER_MESSAGE):
            gaps.observe(0.01)
        tokens.inc(TOKENS_PER_MESSAGE)


def requests_counted() -> None:
    """Every metric one request touches, tokens excepted."""
    metrics = RouterMetrics(queue_requests_max=1)
    for _ in range(CALLS):
        metrics.queue_requests.inc()
        metrics.placed(PlacementKind.DISAGGREGATED, queue_s=0.01)
        metrics.queue_requests.dec()
        metrics.prompt(prompt_tokens=512, cached_tokens=0)
        metrics.first_token(ttft_s=0.1)
        metrics.ended(Outcome.COMPLETED, request_s=1.0, tpot_s=0.01)


CASES: dict[str, Callable[[], None]] = {
    "span, tracing off": spans_off,
    "span, tracing on (file)": spans_on,
    "span, OpenTelemetry SDK": spans_of_the_sdk,
    "token counted": token_gaps,
    "token, prometheus_client": token_gaps_of_the_peer,
    "request's metrics": requests_counted,
}


def cpu_us_per_call(case: Callable[[], None]) -> float:
    """Process CPU time of one run, per call."""
    start = time.process_time()
    case()
    return (time.process_time() - start) / CALLS * 1e6


def main() -> None:
    """Print the table and the ratios."""
    rounds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, case in CASES.items():
            rounds[name].append(cpu_us_per_call(case))
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    print(f"{'CPU us per call':32} {'median':>8} {'min':>8} {'max':>8}")
    for name, values in rounds.items():
        print(f"{name:32} {medians[name]:8.2f} {min(values):8.2f} {max(values):8.2f}")
    ours, sdk = medians["span, tracing on (file)"], medians["span, OpenTelemetry SDK"]
    share = ROUTER_SPANS_PER_REQUEST * ours / ROUTER_US_PER_REQUEST
    print(f"span: {ours / sdk:.2f} of the SDK's cost")
    print(f"tracing every request: {share:.1%} of a router's {ROUTER_US_PER_REQUEST:.0f} us per request")


if __name__ == "__main__":
    main()
