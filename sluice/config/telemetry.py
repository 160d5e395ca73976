"""Settings of logs and traces, the same in every process."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    """Where traces go and how logs look. Metrics are always on: counting is cheap."""

    traces: Literal["none", "file", "otlp"] = "none"
    traces_to: str = ""  # a file for "file", an endpoint such as http://host:4318 for "otlp"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
