"""Over three processes, each with a trace file of its own, one request is one trace whose times and bytes agree."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from real_processes import requests_of, wait_until

from sluice.cli.local_fleet import FleetPlan, LocalFleet
from sluice.config.telemetry import TelemetryConfig
from sluice.config.worker import EngineConfig
from sluice.telemetry import attributes
from sluice.wire.gen import sluice_pb2 as pb

pytestmark = pytest.mark.system

CLIENT_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENT_SPAN = "00f067aa0ba902b7"
LAYER_GROUPS = 2
PROCESS_OF = {
    "request": "router",
    "queue": "router",
    "placement": "router",
    "prefill": "prefill-0",
    "transfer": "prefill-0",
    "attach": "decode-0",
    "decode": "router",
}


@dataclass(frozen=True)
class Span:
    """A span as a collector would see it."""

    process: str
    name: str
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    facts: dict[str, Any]


@pytest.fixture(scope="module")
def traced(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Span], pb.RequestRow]:
    """The spans of one request, and the router's record of it."""
    folder = tmp_path_factory.mktemp("traces")
    plan = FleetPlan(
        model_path=model_path,
        engine=EngineConfig(threads=1, kv_memory_mib=8, step_tokens_max=128),
        telemetry=TelemetryConfig(traces="file", traces_to=str(folder / "trace.jsonl")),
    )
    with LocalFleet(plan) as fleet, openai.OpenAI(base_url=fleet.url, api_key="none", timeout=60) as client:
        fleet.wait_ready(lambda _: None)
        client.completions.create(
            model=client.models.list().data[0].id,
            prompt=[20 + i % 500 for i in range(300)],
            max_tokens=8,
            extra_headers={"traceparent": f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01"},
            extra_body={"ignore_eos": True},
        )
        wait_until(lambda: bool(requests_of(fleet)[0].kv_bytes), "the report of the handoff")
        record = requests_of(fleet)[0]
    return spans_in(folder), record


def spans_in(folder: Path) -> list[Span]:
    files = {path.stem.removeprefix("trace-"): path.read_text() for path in folder.iterdir()}
    batches = [(process, line) for process, text in files.items() for line in text.splitlines()]
    return [
        span_of(process, span)
        for process, line in batches
        for span in json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    ]


def span_of(process: str, span: dict[str, Any]) -> Span:
    return Span(
        process=process,
        name=span["name"],
        trace=span["traceId"],
        id=span["spanId"],
        parent=span["parentSpanId"],
        start_ns=int(span["startTimeUnixNano"]),
        end_ns=int(span["endTimeUnixNano"]),
        facts={pair["key"]: next(iter(pair["value"].values())) for pair in span["attributes"]},
    )


Traced = tuple[list[Span], pb.RequestRow]


def test_every_process_adds_its_spans_to_the_clients_trace(traced: Traced) -> None:
    spans, _ = traced
    assert {span.trace for span in spans} == {CLIENT_TRACE}
    assert {(span.name, span.process) for span in spans} == set(PROCESS_OF.items())
    assert Counter(span.name for span in spans) == {**dict.fromkeys(PROCESS_OF, 1), "transfer": transfers(spans)}


def transfers(spans: list[Span]) -> int:
    """One per layer group and pushed chunk; every layer group is there."""
    groups = {span.facts[attributes.LAYER_GROUP] for span in spans if span.name == "transfer"}
    assert groups == {str(group) for group in range(LAYER_GROUPS)}
    return sum(span.name == "transfer" for span in spans)


def test_spans_hang_where_the_work_was_asked_for(traced: Traced) -> None:
    spans, _ = traced
    names = {span.id: span.name for span in spans} | {CLIENT_SPAN: "client"}
    assert {(span.name, names[span.parent]) for span in spans} == {
        ("request", "client"),
        ("queue", "request"),
        ("placement", "request"),
        ("prefill", "request"),
        ("transfer", "prefill"),
        ("attach", "prefill"),
        ("decode", "request"),
    }


def test_transfers_say_how_much_moved_how_and_how_fast(traced: Traced) -> None:
    spans, record = traced
    pushes = [span for span in spans if span.name == "transfer"]
    assert sum(int(span.facts[attributes.TRANSFER_BYTES]) for span in pushes) == record.kv_bytes
    assert {span.facts[attributes.TRANSPORT] for span in pushes} == {"shm"}
    assert all(span.facts[attributes.TRANSFER_GB_PER_S] > 0 for span in pushes)
    assert {span.facts[attributes.DECODE_WORKER] for span in pushes} == {"decode-0"}


def test_times_of_a_machine_are_in_the_order_of_events(traced: Traced) -> None:
    spans, _ = traced
    at = {span.name: span for span in spans}
    request = at["request"]
    assert all(request.start_ns <= span.start_ns <= span.end_ns <= request.end_ns for span in spans)
    assert at["queue"].start_ns <= at["placement"].start_ns <= at["prefill"].start_ns
    assert at["prefill"].end_ns <= at["attach"].end_ns
