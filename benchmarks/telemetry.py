"""What telemetry costs: CPU microseconds per request, span and streamed token; beside the OpenTelemetry SDK.

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

from opentelemetry import trace
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
CALLS = 4_000
TOKENS_PER_MESSAGE = 8
ROUTER_US_PER_REQUEST = 900.0  # the router's own budget, without telemetry

REQUEST: Attributes = {
    attributes.OPERATION_NAME: "chat",
    attributes.PROVIDER_NAME: attributes.PROVIDER,
    attributes.REQUEST_MODEL: "demo",
    attributes.RESPONSE_MODEL: "demo",
    attributes.REQUEST_MAX_TOKENS: 128,
    attributes.REQUEST_TEMPERATURE: 0.7,
    attributes.REQUEST_TOP_P: 0.95,
    attributes.REQUEST_SEED: "1234567890123456789",
    attributes.REQUEST_CHOICES: 1,
    attributes.RESPONSE_ID: "chatcmpl-0123456789abcdef",
    attributes.REQUEST_ID: "chatcmpl-0123456789abcdef",
    attributes.INPUT_TOKENS: 512,
}
RESULT: Attributes = {
    attributes.OUTPUT_TOKENS: 128,
    attributes.CACHED_TOKENS: 64,
    attributes.RESPONSE_FINISH_REASONS: ["stop"],
    attributes.PREFILL_WORKER: "prefill-0",
    attributes.DECODE_WORKER: "decode-0",
    attributes.TTFT_S: 0.123,
}
SEQUENCE: Attributes = {attributes.REQUEST_ID: "chatcmpl-0123456789abcdef", attributes.SEQUENCE: "123456789"}
PLACEMENT: Attributes = {
    **SEQUENCE,
    attributes.DECISION: "split: 448 of 512 prompt tokens are not cached at decode-0",
    attributes.CANDIDATES: 4,
    attributes.PREFILL_WORKER: "prefill-0",
    attributes.DECODE_WORKER: "decode-0",
}
DECODE: Attributes = {**SEQUENCE, attributes.EPOCH: 1, attributes.OUTPUT_TOKENS: 128, attributes.TPOT_S: 0.0123}
CHILDREN = ((SpanName.QUEUE, SEQUENCE), (SpanName.PLACEMENT, PLACEMENT), (SpanName.DECODE, DECODE))


class _EncodeOnly(SpanExporter):
    """Encodes as the OTLP exporter does and keeps nothing, so that no network is measured."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


def spans_off() -> None:
    """Tracing that is not configured."""
    for _ in range(CALLS):
        tracing.start_span(SpanName.QUEUE, parent="").end()


def traced_requests() -> None:
    """The four spans a router records of a request, encoded and written to a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "traces.jsonl")
        tracing.configure(
            exporter=tracing.Exporter.FILE, service="sluice-router", endpoint_or_path=path, traces_per_s_max=CALLS
        )
        for _ in range(CALLS):
            request = tracing.start_trace(SpanName.REQUEST, attributes=REQUEST)
            for name, facts in CHILDREN:
                tracing.record_span(name, parent=request.traceparent, start_ns=1, end_ns=2, attributes=facts)
            request.end(RESULT)
        tracing.shutdown(timeout_s=60)


def traced_requests_with_the_sdk() -> None:
    """The peer: the same spans through the OpenTelemetry SDK."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(_EncodeOnly(), max_queue_size=8 * CALLS))
    tracer = provider.get_tracer("sluice")
    for _ in range(CALLS):
        request = tracer.start_span("request", attributes=REQUEST)
        context = trace.set_span_in_context(request)
        for name, facts in CHILDREN:
            tracer.start_span(name.value, context=context, attributes=facts, start_time=1).end(end_time=2)
        request.set_attributes(RESULT)
        request.end()
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
    "request's 4 spans (file)": traced_requests,
    "request's 4 spans, OpenTelemetry": traced_requests_with_the_sdk,
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
    ours, sdk = medians["request's 4 spans (file)"], medians["request's 4 spans, OpenTelemetry"]
    print(f"tracing: {ours / sdk:.2f} of the SDK's cost")
    for name, cost in (("Sluice", ours), ("the SDK", sdk)):
        print(f"every request traced by {name}: {cost / ROUTER_US_PER_REQUEST:.1%} of {ROUTER_US_PER_REQUEST:.0f} us")
    print(f"at most {tracing.TRACES_PER_S_MAX} traces a second: {ours * tracing.TRACES_PER_S_MAX / 1e6:.2%} of a core")


if __name__ == "__main__":
    main()
