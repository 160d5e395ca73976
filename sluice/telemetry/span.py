"""A span: one named stretch of one request's life, recorded or inert.

RecordingSpan holds what a viewer will see and hands itself to a collector when it ends.
InertSpan does nothing; there is one of it, so tracing that is off allocates nothing.
Never exports anything itself. Next: `trace_export.py`.
"""

import random
import re
from typing import Final, Protocol

from sluice import clock
from sluice.telemetry.attributes import ERROR_TYPE, Attributes, AttributeValue, SpanName

TRACEPARENT_CHARS: Final = 55
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_ids: Final = random.Random()  # noqa: S311 - trace ids need to be unique, not secret


class Span(Protocol):
    """What a caller may do with a span, whether or not it is recorded."""

    @property
    def traceparent(self) -> str:
        """W3C trace context for children in this or another process; empty when not recorded."""
        ...

    @property
    def is_recording(self) -> bool:
        """Whether anyone will see this span: ask before computing costly attributes."""
        ...

    def describe(self, attributes: Attributes) -> None:
        """Add attributes before the span ends."""
        ...

    def end(self, attributes: Attributes | None = None, *, error: str | None = None, end_ns: int | None = None) -> None:
        """Finish the span once; later calls change nothing. `error` marks it failed, with the error's code."""
        ...


class SpanCollector(Protocol):
    """Who takes finished spans: the exporter, or a list in tests."""

    def accept(self, span: "RecordingSpan") -> None: ...


class RecordingSpan:
    """A span that will be exported. Used by one thread at a time."""

    __slots__ = (
        "_collector",
        "attributes",
        "end_ns",
        "error",
        "name",
        "parent_span_id",
        "span_id",
        "start_ns",
        "trace_id",
    )

    def __init__(
        self,
        name: SpanName,
        *,
        collector: SpanCollector,
        trace_id: str,
        parent_span_id: str,
        start_ns: int,
        attributes: Attributes | None,
    ) -> None:
        self.name = name
        self.trace_id = trace_id
        self.span_id = f"{_ids.getrandbits(64) | 1:016x}"
        self.parent_span_id = parent_span_id
        self.start_ns = start_ns
        self.end_ns = 0
        self.attributes: dict[str, AttributeValue] = dict(attributes) if attributes else {}
        self.error: str | None = None
        self._collector: SpanCollector | None = collector

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"

    @property
    def is_recording(self) -> bool:
        return self._collector is not None

    def describe(self, attributes: Attributes) -> None:
        self.attributes.update(attributes)

    def end(self, attributes: Attributes | None = None, *, error: str | None = None, end_ns: int | None = None) -> None:
        if self._collector is None:
            return
        if attributes:
            self.attributes.update(attributes)
        if error is not None:
            self.error = self.attributes[ERROR_TYPE] = error
        self.end_ns = clock.wall_ns() if end_ns is None else end_ns
        collector, self._collector = self._collector, None
        collector.accept(self)


class InertSpan:
    """The span of everything that is not traced."""

    __slots__ = ()

    @property
    def traceparent(self) -> str:
        return ""

    @property
    def is_recording(self) -> bool:
        return False

    def describe(self, attributes: Attributes) -> None:
        del attributes

    def end(self, attributes: Attributes | None = None, *, error: str | None = None, end_ns: int | None = None) -> None:
        del attributes, error, end_ns


INERT: Final = InertSpan()


def new_trace_id() -> str:
    """32 random hexadecimal digits, never all zero."""
    return f"{_ids.getrandbits(128) | 1:032x}"


def parse_traceparent(text: str) -> tuple[str, str, bool] | None:
    """(trace id, parent span id, sampled) of a W3C `traceparent` a stranger sent, or None if it is malformed."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None or not match[1].strip("0") or not match[2].strip("0"):
        return None
    return match[1], match[2], int(match[3], 16) & 1 == 1
