"""Counts and traces what has been taken in: one commit's bytes, and the span of its attach. Decides nothing.

Next: `arrivals.py`, who calls it.
"""

from sluice import clock
from sluice.domain.ids import WorkerId
from sluice.domain.sequence import SequenceState
from sluice.telemetry import attributes, tracing
from sluice.telemetry.metric_table import Direction
from sluice.telemetry.metrics import WorkerMetrics
from sluice.wire.gen import sluice_pb2 as pb


def record(
    metrics: WorkerMetrics, worker: WorkerId, state: SequenceState, request: pb.CommitRequest, *, started_ns: int
) -> None:
    """A commit that began at `started_ns` (wall clock) has been accepted on `worker`."""
    moved_bytes = sum(group.bytes for group in request.proofs)
    metrics.transferred(
        transport=request.transport,
        direction=Direction.RECEIVED,
        moved_bytes=moved_bytes,
        seconds=None,
    )
    if not tracing.is_on():
        return
    tracing.record_span(
        attributes.SpanName.ATTACH,
        parent=state.traceparent,
        start_ns=started_ns,
        end_ns=clock.wall_ns(),
        attributes={
            attributes.WORKER: worker,
            attributes.REQUEST_ID: state.request,
            attributes.SEQUENCE: state.sequence,
            attributes.EPOCH: state.epoch,
            attributes.TRANSFER_BYTES: moved_bytes,
        },
    )
