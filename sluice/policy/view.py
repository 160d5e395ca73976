"""What a placement decision sees of one worker: a snapshot, never a live object.

The router keeps one WorkerView per worker and replaces it when something changed; policies
and simulators only read. Next: `placement.py`.
"""

from dataclasses import dataclass, field

from sluice.domain.ids import BootId
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
    # Derived once, because every placement reads every view:
    sequences: int = field(init=False)  # waiting or running there, the best estimate
    queued_tokens: int = field(init=False)  # prompt tokens to be computed there before a new request's
    free_blocks: int = field(init=False)  # that a new sequence could get, never negative
    shunned: frozenset[BootId] = field(init=False)  # peers it cannot send KV to at a useful speed

    def __post_init__(self) -> None:
        load = self.load
        reported = load.waiting_sequences + load.running_sequences + self.recent_sequences
        object.__setattr__(self, "sequences", max(reported, self.own_sequences))
        object.__setattr__(self, "queued_tokens", load.waiting_prefill_tokens + self.recent_tokens)
        object.__setattr__(self, "free_blocks", max(0, load.free_blocks - self.recent_blocks))
        object.__setattr__(self, "shunned", frozenset(link.peer_boot for link in load.links if link.problem))

    def can_send_to(self, other: "WorkerView") -> bool:
        """Whether nothing is known against the link from this worker to another."""
        return other.info.boot not in self.shunned
