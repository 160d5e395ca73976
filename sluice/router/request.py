"""One client request in flight: its outbox, its flows' count, its place in traces. Holds, never decides.

Next: `flow.py` for one output of it, `dispatcher.py` for who starts and ends it.
"""

import asyncio

from sluice.domain.ids import RouterId, SequenceId
from sluice.router.job import Job
from sluice.router.output import Delivery, Outbox


class Request:
    """A request between acceptance and its last token."""

    __slots__ = (
        "accepted_s",
        "attempts_max",
        "deadline",
        "job",
        "open_sequences",
        "outbox",
        "router",
        "traceparent",
    )

    def __init__(self, job: Job, *, router: RouterId, delivery: Delivery, accepted_s: float, attempts_max: int) -> None:
        self.job = job
        self.router = router
        self.accepted_s = accepted_s
        self.attempts_max = attempts_max
        self.outbox = Outbox(choices=job.choices, delivery=delivery)
        self.open_sequences: set[SequenceId] = set()
        self.traceparent = ""
        self.deadline: asyncio.TimerHandle | None = None
