"""Logs: one readable line per event, with ids, without anything a client wrote."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import get_args, get_type_hints

import pytest

from sluice.config.telemetry import TelemetryConfig
from sluice.errors import ConfigError
from sluice.telemetry import logs, tracing
from sluice.telemetry.logs import LogFormat


@pytest.fixture(autouse=True)
def root_logger_is_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def log_as(log_format: LogFormat, stream: io.StringIO) -> logging.Logger:
    logs.configure_logs(log_format=log_format, level="info", service="sluice-worker", worker="decode-0", stream=stream)
    return logging.getLogger("sluice.test")


def test_a_json_line_carries_time_level_worker_request_and_fields(stream: io.StringIO) -> None:
    log = log_as(LogFormat.JSON, stream)
    with logs.request_context("req-1"):
        log.info("placed on %s", "prefill-0", extra={"fields": {"blocks": 3}})
    log.info("idle")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["time"].endswith("Z")
    assert {key: first[key] for key in ("level", "logger", "message", "service", "worker", "request", "blocks")} == {
        "level": "info",
        "logger": "sluice.test",
        "message": "placed on prefill-0",
        "service": "sluice-worker",
        "worker": "decode-0",
        "request": "req-1",
        "blocks": 3,
    }
    assert "request" not in second


def test_a_console_line_says_who_and_which_request(stream: io.StringIO) -> None:
    log = log_as(LogFormat.CONSOLE, stream)
    with logs.request_context("req-1"):
        log.warning("slow", extra={"fields": {"step_s": 0.5}})
    line = stream.getvalue()
    assert "WARNING decode-0: slow  step_s=0.5 request=req-1" in line


@pytest.mark.parametrize("log_format", list(LogFormat))
def test_prompts_and_secrets_are_withheld_by_name(stream: io.StringIO, log_format: LogFormat) -> None:
    log = log_as(log_format, stream)
    log.info("x", extra={"fields": {"prompt": "my diary", "Authorization": "Bearer abc", "blocks": 1}})
    assert "diary" not in stream.getvalue()
    assert "Bearer" not in stream.getvalue()
    assert "(withheld)" in stream.getvalue()


@pytest.mark.parametrize("log_format", list(LogFormat))
def test_exceptions_are_written_and_long_values_cut(stream: io.StringIO, log_format: LogFormat) -> None:
    log = log_as(log_format, stream)
    try:
        int("broken " * 10_000)
    except ValueError:
        log.exception("failed")
    assert "ValueError" in stream.getvalue()
    assert len(stream.getvalue()) < 3 * logs.VALUE_CHARS_MAX


def test_lines_below_the_level_are_not_written(stream: io.StringIO) -> None:
    log_as(LogFormat.JSON, stream).debug("quiet")
    assert stream.getvalue() == ""


def test_an_unknown_level_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(ConfigError, match="debug, info, warning, error"):
        logs.configure_logs(log_format=LogFormat.JSON, level="loud", service="s")


def test_settings_offer_exactly_the_formats_levels_and_exporters_there_are() -> None:
    offered = {name: set(get_args(kind)) for name, kind in get_type_hints(TelemetryConfig).items()}
    assert offered["log_format"] == {kind.value for kind in LogFormat}
    assert offered["log_level"] == set(logs.LEVELS)
    assert offered["traces"] == {kind.value for kind in tracing.Exporter}


async def test_concurrent_requests_keep_their_own_ids(stream: io.StringIO) -> None:
    log = log_as(LogFormat.JSON, stream)

    async def handle(request: str) -> None:
        with logs.request_context(request):
            await asyncio.sleep(0)
            log.info(request)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(handle(f"req-{number}"))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 5
    assert all(line["message"] == line["request"] for line in lines)
