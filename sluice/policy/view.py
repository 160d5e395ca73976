"""What a placement decision sees of one worker: a snapshot, never a live object.

The router keeps one WorkerView per worker and replaces it when something changed; policies
and simulators only read. Next: `placement.py`.
"""

from dataclasses import dataclass

from sluice.domain.load import WorkerInfo, WorkerLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A worker as the router knows it now.

    A heartbeat's load is old by up to a heartbeat: `recent_sequences` and `recent_tokens` (prompt
    tokens to prefill) are what this router placed there too late to be in it. `own_sequences` are
    all this router has there now: exact, but blind to other routers.
    """

    slot: int  # the worker's number in the prefix index, stable while it is connected
    info: WorkerInfo
    load: WorkerLoad
    own_sequences: int = 0
    recent_sequences: int = 0
    recent_tokens: int = 0
    recent_blocks: int = 0

    @property
    def sequences(self) -> int:
        """Sequences waiting or running there, the best estimate."""
        reported = self.load.waiting_sequences + self.load.running_sequences + self.recent_sequences
        return max(reported, self.own_sequences)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens to be computed there before a new request's."""
        return self.load.waiting_prefill_tokens + self.recent_tokens

    @property
    def free_blocks(self) -> int:
        """Blocks a new sequence could get, never negative."""
        return max(0, self.load.free_blocks - self.recent_blocks)
