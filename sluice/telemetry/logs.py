"""Structured logs: one line per event, carrying the request's and the worker's id.

Sets up the root logger once per process; everything else uses `logging.getLogger(__name__)` and
may add fields with `extra={"fields": {...}}`. Never writes prompts, answers or secrets: fields
whose names say so are withheld, and long values are cut.
"""

import contextlib
import datetime as dt
import logging
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from enum import Enum
from typing import Any, Final, TextIO, assert_never

import orjson

from sluice.errors import ConfigError

VALUE_CHARS_MAX: Final = 2_000
WITHHELD_FIELDS: Final = frozenset(
    {"prompt", "text", "content", "messages", "tokens", "authorization", "api_key", "password", "secret", "grant"}
)
LEVELS: Final = ("debug", "info", "warning", "error")

_request: ContextVar[str] = ContextVar("sluice_request", default="")
_process_id: Final[dict[str, str]] = {}


class LogFormat(Enum):
    """For machines, or for a person at a terminal."""

    JSON = "json"
    CONSOLE = "console"


def configure_logs(
    *, log_format: LogFormat, level: str, service: str, worker: str = "", stream: TextIO | None = None
) -> None:
    """Send this process's logs to `stream` (standard error by default), replacing earlier handlers.

    `service` and `worker` appear on every line. Raises ConfigError for an unknown level.
    """
    if level.lower() not in LEVELS:
        raise ConfigError(f"log level: '{level}' is unknown; use one of {', '.join(LEVELS)}")
    _process_id.clear()
    _process_id.update({"service": service, **({"worker": worker} if worker else {})})
    handler = logging.StreamHandler(stream or sys.stderr)
    match log_format:
        case LogFormat.JSON:
            handler.setFormatter(_JsonFormatter())
        case LogFormat.CONSOLE:
            handler.setFormatter(_ConsoleFormatter())
        case _:
            assert_never(log_format)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


@contextlib.contextmanager
def request_context(request: str) -> Iterator[None]:
    """Log lines written inside, in this task and in tasks it starts, carry the request id."""
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)


class _JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
            **_process_id,
        }
        if request := _request.get():
            line["request"] = request
        line.update(_fields_of(record))
        if record.exc_info:
            line["exception"] = _cut(self.formatException(record.exc_info))
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class _ConsoleFormatter(logging.Formatter):
    """A line a person can scan: time, level, who, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        who = _process_id.get("worker") or _process_id.get("service", "")
        line = f"{_time_of(record)[11:23]} {record.levelname:<7} {who}: {_cut(record.getMessage())}"
        fields = dict(_fields_of(record))
        if request := _request.get():
            fields["request"] = request
        if fields:
            line += "  " + " ".join(f"{key}={value}" for key, value in fields.items())
        if record.exc_info:
            line += "\n" + _cut(self.formatException(record.exc_info))
        return line


def _time_of(record: logging.LogRecord) -> str:
    moment = dt.datetime.fromtimestamp(record.created, tz=dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = getattr(record, "fields", None)
    if not isinstance(fields, Mapping):
        return {}
    return {
        str(key): "(withheld)" if str(key).lower() in WITHHELD_FIELDS else _cut(value) for key, value in fields.items()
    }


def _cut(value: Any) -> Any:  # noqa: ANN401 - a log field may be anything
    if isinstance(value, str) and len(value) > VALUE_CHARS_MAX:
        return f"{value[:VALUE_CHARS_MAX]}… ({len(value)} characters)"
    return value
