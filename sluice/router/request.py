"""One client request in flight: its outbox, its flows' count, its place in traces. Holds, never decides.

Next: `flow.py` for one output of it, `dispatcher.py` for who starts and ends it.
"""

import asyncio

from sluice.domain.ids import RouterId, SequenceId
from sluice.errors import SluiceError
from sluice.router.job import Job
from sluice.router.observer import Observer
from sluice.router.output import Delivery, Outbox
from sluice.router.records import Record


class Request:
    """A request between acceptance and its release by the client's side."""

    __slots__ = (
        "attempts_max",
        "deadline",
        "error",
        "is_released",
        "job",
        "observer",
        "open_sequences",
        "outbox",
        "records",
        "router",
        "span",
        "traceparent",
    )

    def __init__(
        self, job: Job, *, router: RouterId, delivery: Delivery, attempts_max: int, observer: Observer
    ) -> None:
        self.job = job
        self.router = router
        self.attempts_max = attempts_max
        self.observer = observer
        self.outbox = Outbox(choices=job.choices, delivery=delivery)
        self.open_sequences: set[SequenceId] = set()
        self.records: list[Record] = []
        self.span = observer.open_span(job)
        self.traceparent = self.span.traceparent
        self.deadline: asyncio.TimerHandle | None = None
        self.error: SluiceError | None = None
        self.is_released = False

    def fail(self, error: SluiceError) -> None:
        """The request ends with an error; the first one counts."""
        self.error = self.error or error
        self.outbox.fail(error)
