"""A flow as one that reads images: whose prompt it is, and what becomes of it when they do not come. Decides nothing.

Next: `showings.py`.
"""

from sluice.clock import Clock
from sluice.domain.role import FinishReason
from sluice.errors import InvalidRequestError
from sluice.router.flow import Flow
from sluice.router.showings import Reader


def reader_of(flow: Flow, clock: Clock) -> Reader:
    """The flow under its present epoch: a later one has its images brought anew."""
    epoch = flow.epoch

    def blind(why: str) -> None:
        if flow.epoch == epoch:
            flow.on_failed(f"its images did not come: {why}", now_s=clock.now_s())

    def refuse(error: InvalidRequestError) -> None:
        if flow.epoch == epoch:
            flow.end(FinishReason.ERROR, now_s=clock.now_s(), error=error)

    return Reader(
        sequence=flow.sequence,
        prompt=flow.prompt,
        record=flow.record,
        traceparent=flow.request.traceparent,
        blind=blind,
        refuse=refuse,
    )
