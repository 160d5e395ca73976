"""The trace span of each prefill on this worker: from a router's Start to the first token; of an image, its encode.

Transfers and attaches are its children. Costs a dictionary miss per token when nothing is traced.
"""

from sluice.domain.ids import SequenceId, WorkerId
from sluice.domain.sequence import SequenceState
from sluice.telemetry import attributes, tracing
from sluice.telemetry.span import Span


class PrefillSpans:
    """Open prefill spans by sequence; only recorded ones are kept."""

    def __init__(self, worker: WorkerId) -> None:
        self._worker = worker
        self._open: dict[SequenceId, Span] = {}

    def begin(self, state: SequenceState) -> str:
        """A sequence starts here; the parent for what is done on its behalf ("" when not traced)."""
        if not (tracing.is_on() and state.traceparent):
            return ""
        span = tracing.start_span(
            attributes.SpanName.PREFILL if state.viewer is None else attributes.SpanName.ENCODE,
            parent=state.traceparent,
            attributes={
                attributes.WORKER: self._worker,
                attributes.REQUEST_ID: state.request,
                attributes.SEQUENCE: state.sequence,
                attributes.EPOCH: state.epoch,
                attributes.INPUT_TOKENS: state.prompt_tokens,
            },
        )
        self._open[state.sequence] = span
        return span.traceparent

    def end(self, sequence: SequenceId, *, error: str | None = None) -> None:
        """Its first token is chosen, or it will have none. Unknown sequences are ignored."""
        if (span := self._open.pop(sequence, None)) is not None:
            span.end(error=error)
