"""Metrics: the exposition others parse, the names the documentation promises, the doors that serve them."""

import asyncio
import math

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Histogram as ReferenceHistogram
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from sluice.errors import ConfigError
from sluice.telemetry.histogram import Histogram
from sluice.telemetry.metric_table import (
    PROCESS_METRICS,
    ROUTER_METRICS,
    WORKER_METRICS,
    Direction,
    HandoffResult,
    Kind,
    MetricSpec,
    MigrationResult,
    Objective,
    Outcome,
    PlacementKind,
)
from sluice.telemetry.metrics import RouterMetrics, WorkerMetrics
from sluice.telemetry.metrics_server import start_metrics_server


def parsed(exposition: bytes) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(exposition.decode())}


def value(exposition: bytes, sample: str, **labels: str) -> float:
    found = [
        s.value
        for family in parsed(exposition).values()
        for s in family.samples
        if s.name == sample and s.labels == labels
    ]
    assert len(found) == 1, f"{sample} {labels}: {found}"
    return float(found[0])


def busy_router() -> RouterMetrics:
    metrics = RouterMetrics(queue_requests_max=7)
    metrics.placed(PlacementKind.DISAGGREGATED, queue_s=0.01)
    metrics.handed_off(HandoffResult.COMMITTED)
    metrics.prompt(prompt_tokens=100, cached_tokens=64)
    metrics.first_token(ttft_s=0.2)
    metrics.more_tokens([0.01, 0.02, 0.03])
    metrics.ended(Outcome.COMPLETED, request_s=1.0, tpot_s=0.02)
    metrics.ended(Outcome.REFUSED, request_s=0.0, missed=(Objective.TTFT, Objective.TPOT))
    metrics.set_workers("prefill", workers=2)
    return metrics


def busy_worker() -> WorkerMetrics:
    metrics = WorkerMetrics()
    metrics.stepped(seconds=0.01, prefill_tokens=5, decode_sequences=3, preempted=1, failed=1)
    metrics.set_blocks(total=16, free=1, cached=2, active=3, held=4, reserved=5)
    metrics.transferred(transport="shm", direction=Direction.SENT, moved_bytes=1000, seconds=0.5)
    metrics.transfer_failed(transport="tcp", direction=Direction.RECEIVED)
    metrics.handed_off(exposed_s=0.001)
    return metrics


@pytest.mark.parametrize(
    ("exposition", "specs"),
    [
        (busy_router().exposition(), (*ROUTER_METRICS, *PROCESS_METRICS)),
        (busy_worker().exposition(), (*WORKER_METRICS, *PROCESS_METRICS)),
    ],
    ids=["router", "worker"],
)
def test_every_metric_of_the_table_is_exposed_with_its_type_and_nothing_else_is(
    exposition: bytes, specs: tuple[MetricSpec, ...]
) -> None:
    families = parsed(exposition)
    assert {name: family.type for name, family in families.items()} == {spec.name: spec.kind.value for spec in specs}
    for spec in specs:
        for sample in families[spec.name].samples:
            assert set(sample.labels) - {"le"} == set(spec.labels)


def test_a_router_counts_what_it_was_told() -> None:
    text = busy_router().exposition()
    assert value(text, "sluice_requests_total", outcome="completed") == 1
    assert value(text, "sluice_requests_total", outcome="failed") == 0  # present before the first failure
    assert value(text, "sluice_goodput_requests_total") == 1
    assert value(text, "sluice_slo_misses_total", objective="ttft") == 1
    assert value(text, "sluice_output_tokens_total") == 4
    assert value(text, "sluice_itl_seconds_count") == 3
    assert value(text, "sluice_itl_seconds_sum") == pytest.approx(0.06)
    assert value(text, "sluice_queue_requests_max") == 7
    assert value(text, "sluice_workers", role="prefill") == 2


def test_only_sequences_that_moved_have_a_frozen_time() -> None:
    metrics = RouterMetrics(queue_requests_max=1)
    metrics.migrated(MigrationResult.FAILED, frozen_s=0.0)
    metrics.migrated(MigrationResult.MOVED, frozen_s=0.25)
    text = metrics.exposition()
    assert value(text, "sluice_migrations_total", outcome="failed") == 1
    assert value(text, "sluice_migration_frozen_seconds_count") == 1
    assert value(text, "sluice_migration_frozen_seconds_sum") == 0.25


def test_a_refused_request_has_no_duration_and_no_goodput() -> None:
    metrics = RouterMetrics(queue_requests_max=1)
    metrics.ended(Outcome.REFUSED, request_s=0.5, missed=(Objective.TTFT,))
    text = metrics.exposition()
    assert value(text, "sluice_request_seconds_count") == 0
    assert value(text, "sluice_goodput_requests_total") == 0


def test_a_worker_counts_what_it_was_told() -> None:
    text = busy_worker().exposition()
    assert value(text, "sluice_kv_blocks", state="reserved") == 5
    assert value(text, "sluice_transfer_bytes_total", transport="shm", direction="sent") == 1000
    assert value(text, "sluice_transfers_total", transport="tcp", direction="received", outcome="failed") == 1
    assert value(text, "sluice_transfers_total", transport="tcp", direction="received", outcome="done") == 0
    assert value(text, "sluice_batch_sequences_sum") == 3
    assert value(text, "sluice_decode_tokens_total") == 3


def test_a_transfer_only_the_sender_can_time_has_no_duration_at_the_receiver() -> None:
    metrics = WorkerMetrics()
    metrics.transferred(transport="tcp", direction=Direction.RECEIVED, moved_bytes=10, seconds=None)
    text = metrics.exposition()
    assert value(text, "sluice_transfer_bytes_total", transport="tcp", direction="received") == 10
    assert value(text, "sluice_transfer_seconds_count", transport="tcp", direction="received") == 0


def test_a_step_without_decodes_does_not_count_an_empty_batch() -> None:
    metrics = WorkerMetrics()
    metrics.stepped(seconds=0.01, prefill_tokens=5, decode_sequences=0, preempted=0, failed=0)
    assert value(metrics.exposition(), "sluice_batch_sequences_count") == 0


@given(st.lists(st.floats(min_value=-1, max_value=20), max_size=50))
def test_our_histogram_agrees_with_prometheus_client(values: list[float]) -> None:
    bounds = (0.1, 1.0, 5.0, 10.0)
    ours = Histogram("x", "x", labels=(), bounds=bounds)
    theirs = ReferenceHistogram("x", "x", buckets=bounds, registry=None)
    ours.labels().observe_many(values[::2])
    for observed in values[1::2]:
        ours.labels().observe(observed)
    for observed in values:
        theirs.observe(observed)
    (mine,), (reference,) = ours.collect(), theirs.collect()
    expected = {(s.name, s.labels.get("le")): s.value for s in reference.samples if not s.name.endswith("_created")}
    got = {(s.name, s.labels.get("le")): s.value for s in mine.samples}
    assert got.keys() == expected.keys()
    assert all(math.isclose(got[key], expected[key], abs_tol=1e-9) for key in got)


def test_names_are_unique_and_end_in_their_unit() -> None:
    specs = (*ROUTER_METRICS, *WORKER_METRICS, *PROCESS_METRICS)
    assert len({spec.name for spec in specs}) == len(specs)
    for spec in specs:
        assert spec.name.startswith("sluice_")
        assert (spec.kind is Kind.HISTOGRAM) == bool(spec.buckets)
        assert spec.buckets == tuple(sorted(spec.buckets))
        if spec.kind is Kind.HISTOGRAM and spec.name != "sluice_batch_sequences":
            assert spec.name.endswith("_seconds")


async def test_a_process_says_why_it_is_not_ready() -> None:
    reasons = ["KV peer decode-0 cannot be reached"]
    server = await start_metrics_server(
        host="127.0.0.1", port=0, exposition=busy_worker().exposition, unhealthy=list, unready=lambda: reasons
    )
    try:
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(f"http://{server.address}", timeout=timeout) as session:
            async with session.get("/readyz") as answer:
                assert (answer.status, (await answer.json())["reasons"]) == (503, reasons)
            reasons.clear()
            async with session.get("/readyz") as answer:
                assert answer.status == 200
            async with session.get("/healthz") as answer:
                assert answer.status == 200
            async with session.get("/metrics") as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=")
                assert "sluice_kv_blocks" in parsed(await answer.read())
    finally:
        await server.close()


async def test_a_taken_port_is_a_clear_error() -> None:
    taken = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    try:
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            await start_metrics_server(host="127.0.0.1", port=port, exposition=bytes, unhealthy=list, unready=list)
    finally:
        taken.close()
        await taken.wait_closed()


def test_blocks_that_are_nowhere_are_counted_as_orphans() -> None:
    """An operator's alarm: anything above 0 is a leak."""
    assert parsed(busy_worker().exposition())["sluice_kv_orphan_blocks"].samples[0].value == 1
