"""A request that was served by two workers leaves one trace, whose spans say who did what, and metrics that agree."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import StartPlatform, WorkerPlan

from sluice.telemetry import attributes, tracing

CLIENT_TRACE = "0af7651916cd43dd8448eb211c80319c"
PROMPT = list(range(3, 103))


@pytest.fixture
def trace_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "traces.jsonl"
    tracing.configure(exporter=tracing.Exporter.FILE, service="sluice-test", endpoint_or_path=str(path))
    yield path
    tracing.shutdown()


def spans_in(path: Path) -> list[dict[str, Any]]:
    requests = [json.loads(line) for line in path.read_text().splitlines()]
    return [span for request in requests for span in request["resourceSpans"][0]["scopeSpans"][0]["spans"]]


def facts_of(span: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: next(iter(pair["value"].values())) for pair in span["attributes"]}


async def test_a_disaggregated_request_is_one_trace_over_router_and_workers(
    start_platform: StartPlatform, trace_file: Path
) -> None:
    plans = [WorkerPlan(name="prefill-0", role="prefill"), WorkerPlan(name="decode-0", role="decode")]
    async with start_platform(plans) as platform:
        header = f"00-{CLIENT_TRACE}-00f067aa0ba902b7-01"
        await platform.complete(PROMPT, extra_headers={"traceparent": header})
        await platform.wait_quiet()
        groups = platform.built["prefill-0"].engine.geometry.groups
    tracing.shutdown()
    spans = spans_in(trace_file)
    assert {span["traceId"] for span in spans} == {CLIENT_TRACE}
    by_id = {span["spanId"]: span for span in spans}
    parents = Counter((span["name"], by_id.get(span["parentSpanId"], {"name": "client"})["name"]) for span in spans)
    assert parents == {
        ("request", "client"): 1,
        ("queue", "request"): 1,
        ("placement", "request"): 1,
        ("prefill", "request"): 1,
        ("transfer", "prefill"): groups,
        ("attach", "prefill"): 1,
        ("decode", "request"): 1,
    }
    facts = {span["name"]: facts_of(span) for span in spans}
    assert facts["request"][attributes.PREFILL_WORKER] == "prefill-0"
    assert facts["request"][attributes.DECODE_WORKER] == "decode-0"
    assert facts["prefill"][attributes.WORKER] == "prefill-0"
    assert facts["attach"][attributes.WORKER] == "decode-0"
    assert int(facts["transfer"][attributes.TRANSFER_BYTES]) > 0
    known = {row.name for row in attributes.ATTRIBUTES}
    assert set().union(*facts.values()) <= known
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in spans)


async def test_a_request_that_its_client_does_not_trace_leaves_no_span(
    start_platform: StartPlatform, trace_file: Path
) -> None:
    async with start_platform([WorkerPlan(name="mixed-0")]) as platform:
        await platform.complete(PROMPT, extra_headers={"traceparent": f"00-{CLIENT_TRACE}-00f067aa0ba902b7-00"})
        await platform.wait_quiet()
    tracing.shutdown()
    assert spans_in(trace_file) == []
