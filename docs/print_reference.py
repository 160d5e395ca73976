"""Prints the reference pages from the code they describe; a test compares them with it.

`python docs/print_reference.py` rewrites docs/reference/{metrics,tracing,errors,config,cli,custom-resources}.md.
Decides nothing: names, defaults and comments are the code's own.
"""

import argparse
import ast
import functools
import importlib
import inspect
import json
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from sluice import errors
from sluice.cli.main import COMMANDS
from sluice.config import operator as operator_config
from sluice.config import router as router_config
from sluice.config import telemetry as telemetry_config
from sluice.config import worker as worker_config
from sluice.errors import SluiceError
from sluice.operator.crd_yaml import DEFINITIONS, part_schema
from sluice.router import openai_errors
from sluice.telemetry.attributes import ATTRIBUTES
from sluice.telemetry.metric_table import PROCESS_METRICS, ROUTER_METRICS, WORKER_METRICS, Kind, MetricSpec
from sluice.wire import status

REFERENCE = Path(__file__).parent / "reference"
HELP_COLUMNS = 100
PRINTED = "This page is printed from {source}; run `python docs/print_reference.py` after changing it.\n"

METRICS_INTRO = """# Metrics

Every process serves `/metrics` in the Prometheus text format: a router on its HTTP port, a worker on its metrics
port. The same port answers `/healthz` and `/readyz`, which says why a process is not ready.
The last column names the same quantity in the OpenTelemetry conventions for generative AI servers.

"""

TRACING_INTRO = """# Traces

One trace per request, over every process that worked on it. Off by default; turned on by `telemetry.traces` in a
process's settings: `file` appends OTLP JSON lines to `telemetry.traces_to`, `otlp` posts OTLP JSON to the collector
named there (`http://host:4318`). A client's `traceparent` header is joined and its sampling flag obeyed. A router
begins or joins at most 100 traces a second; requests beyond that are served untraced. Prompts and answers never
appear in a trace. A worker's spans of a traced request appear whatever the worker's own load.

```
request ─┬─ queue                                router
         ├─ placement                            router
         ├─ prefill ─┬─ transfer (per group)     prefill worker
         │           └─ attach                   decode worker
         └─ decode                               router
```

"""

ERRORS_INTRO = """# Errors

Every failure has a class in `sluice/errors.py`; its statuses follow from the class. *Retry* says whether the same
request may succeed later; *who acts* is whom the message is written for. HTTP bodies have OpenAI's shape,
`{"error": {"message", "type", "param", "code"}}`, where `param` names the field; where waiting may help there is a
`Retry-After` header.

"""

CONFIG_INTRO = """# Settings

One YAML file per process, read once: `sluice router --config FILE`, `sluice worker --config FILE`. A section is a
nested mapping; a field marked *required* must be given; an unknown field is refused by name.

"""

CLI_INTRO = """# Commands

Every command ends with status 0 when it did its work, 1 with one line on standard error when it could not, 2 when it
was asked wrongly.

"""


RESOURCES_INTRO = """# Custom resources

`sluice.dev/v1alpha1`. Everything but what is marked *required* may be left out. How they are used:
[operator.md](../operator.md).

"""


def main(folder: Path) -> None:
    """Write every page into `folder`."""
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


def metrics_page() -> str:
    """metrics.md."""
    parts = [METRICS_INTRO, PRINTED.format(source="`sluice/telemetry/metric_table.py`")]
    for title, specs in (("Router", ROUTER_METRICS), ("Worker", WORKER_METRICS), ("Every process", PROCESS_METRICS)):
        parts.append(f"\n## {title}\n\n")
        parts.append(table(("metric", "type", "labels", "meaning", "OpenTelemetry"), map(metric_row, specs)))
    return "".join(parts)


def metric_row(spec: MetricSpec) -> tuple[str, ...]:
    """One metric; counters are exposed with `_total`."""
    name = f"{spec.name}_total" if spec.kind is Kind.COUNTER else spec.name
    gen_ai = f"`{spec.gen_ai}`" if spec.gen_ai else ""
    return (f"`{name}`", spec.kind.value, quoted(spec.labels), spec.meaning, gen_ai)


def tracing_page() -> str:
    """tracing.md."""
    rows = ((f"`{row.name}`", quoted(span.value for span in row.spans), row.meaning) for row in ATTRIBUTES)
    printed = PRINTED.format(source="`sluice/telemetry/attributes.py`")
    return f"{TRACING_INTRO}{printed}\n{table(('attribute', 'on spans', 'meaning'), rows)}"


def errors_page() -> str:
    """errors.md."""
    classes = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, SluiceError)]
    rows = map(error_row, classes)
    printed = PRINTED.format(source="`sluice/errors.py` and the status tables")
    return f"{ERRORS_INTRO}{printed}\n{table(('class', 'HTTP', 'gRPC', 'retry', 'who acts', 'meaning'), rows)}"


def error_row(kind: type[SluiceError]) -> tuple[str, ...]:
    """One error class; its statuses depend on the class alone, so an empty instance will do."""
    error = kind.__new__(kind)
    http, grpc = openai_errors.status_of(error), status.status_of(error).name
    retry = "yes" if kind.retryable else "no"
    return (f"`{kind.__name__}`", str(http), f"`{grpc}`", retry, kind.actor.value, first_line(kind))


_SETTINGS = (
    ("Router", router_config),
    ("Worker", worker_config),
    ("Operator", operator_config),
    ("All", telemetry_config),
)


def config_page() -> str:
    """config.md: one table per section, with the comments of the source as explanations."""
    parts = [CONFIG_INTRO, PRINTED.format(source="`sluice/config/`")]
    for title, module in _SETTINGS:
        for section in reversed(sections_of(module)):
            parts.append(f"\n## {title}: `{section.__name__}`\n\n{first_line(section)}\n\n")
            parts.append(table(("field", "type", "default", "meaning"), setting_rows(section)))
    return "".join(parts)


def sections_of(module: ModuleType) -> list[type]:
    """The settings classes a module defines, in source order."""
    return [kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == module.__name__]


def setting_rows(section: type) -> Iterable[tuple[str, ...]]:
    """A row per field: its annotation and default as written, and the comment on its line."""
    source = textwrap.dedent(inspect.getsource(section))
    lines = source.splitlines()
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        if isinstance(node, ast.AnnAssign):
            default = "" if node.value is None else f"`{ast.unparse(node.value)}`"
            is_section = "field(default_factory" in default
            shown = "see its section" if is_section else default or "required"
            _, _, comment = lines[node.lineno - 1].partition("  # ")
            yield (f"`{ast.unparse(node.target)}`", f"`{ast.unparse(node.annotation)}`", shown, comment)


def cli_page() -> str:
    """cli.md: every command's own help."""
    parts = [CLI_INTRO, PRINTED.format(source="the commands' own help")]
    formatter = functools.partial(argparse.HelpFormatter, width=HELP_COLUMNS)
    for name, purpose in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=f"sluice {name}", description=purpose, formatter_class=formatter)
        importlib.import_module(f"sluice.cli.{name}").add_arguments(parser)
        parts.append(f"\n## sluice {name}\n\n```\n{parser.format_help()}```\n")
    return "".join(parts)


def custom_resources_page() -> str:
    """custom-resources.md: one table per part of a resource."""
    parts = [RESOURCES_INTRO, PRINTED.format(source="`sluice/operator/resources/`")]
    for resource in DEFINITIONS:
        short = quoted(resource.short_names)
        parts.append(f"\n## {resource.kind}\n\nShort name {short}; scope {resource.scope.lower()}.\n")
        parts += schema_tables("spec", part_schema(resource.spec, with_rules=False))
        if resource.status is not None:
            parts += schema_tables("status", part_schema(resource.status, with_rules=False))
    return "".join(parts)


def schema_tables(path: str, schema: Mapping[str, Any]) -> Iterable[str]:
    """A table of an object's fields, then one for each object inside."""
    required = schema.get("required", ())
    rows = [
        (f"`{name}`", *field_cells(item, is_required=name in required)) for name, item in schema["properties"].items()
    ]
    yield f"\n### `{path}`\n\n{schema.get('description', '')}\n\n"
    yield table(("field", "type", "default", "meaning"), rows)
    for name, item in schema["properties"].items():
        inner, inside = item, f"{path}.{name}"
        if "items" in item:
            inner, inside = item["items"], f"{path}.{name}[]"
        elif "additionalProperties" in item:
            inner, inside = item["additionalProperties"], f"{path}.{name}.NAME"
        if "properties" in inner:
            yield from schema_tables(inside, inner)


def field_cells(item: Mapping[str, Any], *, is_required: bool) -> tuple[str, str, str]:
    """Type, default and meaning of one field."""
    kind = " or ".join(f"`{one}`" for one in item["enum"]) if "enum" in item else item["type"]
    default = f"`{json.dumps(item['default'])}`" if "default" in item else ("required" if is_required else "")
    return kind, default, item.get("description", "").replace("\n", " ")


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def quoted(words: Iterable[str]) -> str:
    """Words as inline code."""
    return ", ".join(f"`{word}`" for word in words)


def first_line(thing: type) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(thing) or "").splitlines()[0]


PAGES: Mapping[str, Callable[[], str]] = {
    "metrics.md": metrics_page,
    "tracing.md": tracing_page,
    "errors.md": errors_page,
    "config.md": config_page,
    "cli.md": cli_page,
    "custom-resources.md": custom_resources_page,
}


if __name__ == "__main__":
    main(REFERENCE)
