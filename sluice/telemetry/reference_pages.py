"""Prints the reference pages of metrics and traces from the tables the code itself uses.

`python -m sluice.telemetry.reference_pages docs/reference` rewrites `metrics.md` and
`tracing.md`; a test compares them with the tables. Decides no names.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from sluice.telemetry.attributes import ATTRIBUTES
from sluice.telemetry.metric_table import PROCESS_METRICS, ROUTER_METRICS, WORKER_METRICS, Kind, MetricSpec

_METRICS_INTRO = """# Metrics

Every process serves `/metrics` in the Prometheus text format: a router on its HTTP port, a worker on its metrics
port. The same port answers `/healthz` and `/readyz`. This page is printed from `sluice/telemetry/metric_table.py`;
run `python -m sluice.telemetry.reference_pages docs/reference` after changing it.

The last column names the same quantity in the OpenTelemetry conventions for generative AI servers.
"""

_TRACING_INTRO = """# Traces

One trace per request, over every process that worked on it. Off by default; turned on by `telemetry.traces` in a
process's settings: `file` appends OTLP JSON lines to `telemetry.traces_to`, `otlp` posts OTLP JSON to the collector
named there (`http://host:4318`). A client's `traceparent` header is joined and its sampling flag obeyed.
Prompts and answers never appear in a trace.
This page is printed from `sluice/telemetry/attributes.py`; run
`python -m sluice.telemetry.reference_pages docs/reference` after changing it.

```
request ─┬─ queue                                router
         ├─ placement                            router
         ├─ prefill ─┬─ transfer (per group)     prefill worker
         │           └─ attach                   decode worker
         └─ decode                               router
```
"""


def metrics_page() -> str:
    """The text of docs/reference/metrics.md."""
    parts = [_METRICS_INTRO]
    for title, specs in (("Router", ROUTER_METRICS), ("Worker", WORKER_METRICS), ("Every process", PROCESS_METRICS)):
        parts.append(
            f"\n## {title}\n\n| metric | type | labels | meaning | OpenTelemetry |\n| --- | --- | --- | --- | --- |\n"
        )
        parts.extend(_metric_line(spec) for spec in specs)
    return "".join(parts)


def tracing_page() -> str:
    """The text of docs/reference/tracing.md."""
    lines = ["\n| attribute | on spans | meaning |\n| --- | --- | --- |\n"]
    lines.extend(
        f"| `{row.name}` | {_join(span.value for span in row.spans)} | {row.meaning} |\n" for row in ATTRIBUTES
    )
    return _TRACING_INTRO + "".join(lines)


def main(folder: Path) -> None:
    """Write both pages into `folder`."""
    (folder / "metrics.md").write_text(metrics_page(), encoding="utf-8")
    (folder / "tracing.md").write_text(tracing_page(), encoding="utf-8")


def _metric_line(spec: MetricSpec) -> str:
    name = f"{spec.name}_total" if spec.kind is Kind.COUNTER else spec.name
    gen_ai = f"`{spec.gen_ai}`" if spec.gen_ai else ""
    return f"| `{name}` | {spec.kind.value} | {_join(spec.labels)} | {spec.meaning} | {gen_ai} |\n"


def _join(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
