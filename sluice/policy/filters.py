"""Which workers may be considered at all: one reason per worker that may not.

Hard limits only; preferences are scores. Pure. Next: `scorers.py`.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from sluice.domain.ids import WorkerId
from sluice.policy.view import WorkerView


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What placement knows of a sequence. Never its text or tokens (law L8)."""

    prompt_tokens: int  # all tokens to have KV for before the next one is chosen
    output_tokens_max: int
    excluded: AbstractSet[WorkerId] = frozenset()  # tried before and failed

    @property
    def total_tokens(self) -> int:
        """The longest the sequence may become."""
        return self.prompt_tokens + self.output_tokens_max


Filter = Callable[[WorkerView, RequestFacts], str]
"""Returns why the worker cannot take the sequence, or "" if it can."""


def is_not_ready(view: WorkerView, _: RequestFacts) -> str:
    """Only READY workers that can do their part get work."""
    if view.load.is_ready:
        return ""
    return "not ready" if view.load.unready else str(view.load.lifecycle.value)


def was_tried(view: WorkerView, facts: RequestFacts) -> str:
    """A worker that refused or failed this sequence is not asked again."""
    return "tried before" if view.info.worker in facts.excluded else ""


def is_too_small(view: WorkerView, facts: RequestFacts) -> str:
    """The sequence must fit the worker's length limit."""
    return "" if facts.total_tokens <= view.info.sequence_tokens_max else "sequence too long"


def is_full(view: WorkerView, _: RequestFacts) -> str:
    """A worker waits for at most one batch beyond the one it runs: the rest queues at the router."""
    return "" if view.sequences < 2 * view.info.batch_sequences_max else "full"


FILTERS: tuple[Filter, ...] = (is_not_ready, was_tried, is_too_small, is_full)


def why_not(view: WorkerView, facts: RequestFacts) -> str:
    """The first filter's reason against a worker, or "" if none objects."""
    for check in FILTERS:
        reason = check(view, facts)
        if reason:
            return reason
    return ""
