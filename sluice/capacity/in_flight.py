"""What a worker has to do now, though its latest report is old: what it said, what was sent since, less what it did.

Without this ledger every router in a burst sees the same idle worker (Llumnix v1 calls it the in-flight
dispatch ledger; LMETRIC, OSDI 2026, the stale state). A report covers what was sent clearly before it.
Pure; one owner. Next: `step_curve.py`, which says how fast work goes away.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sluice.capacity.step_curve import StepCurve
from sluice.capacity.step_model import StepShape

GRACE_S: Final = 0.1
"""What was sent this shortly before a report may not be in it."""

SENT_MAX: Final = 8192  # by worker; the oldest are forgotten beyond
STEP_TOKENS: Final = 2048  # prompt tokens taken to share one step's constant


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """A worker's work at one moment."""

    waiting: int = 0  # sequences that have not started
    running: int = 0
    queued_tokens: float = 0.0  # prompt tokens accepted and not computed
    queued_pairs: float = 0.0
    context_tokens: float = 0.0  # of the running batch
    free_blocks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One sequence on its way to a worker, or too new for its report."""

    prefill_tokens: int  # to compute there
    pairs: float
    context_tokens: int  # to keep KV of
    blocks: int


class InFlight:
    """The ledger of one worker."""

    def __init__(self) -> None:
        self._report = Backlog()
        self._report_s = float("-inf")
        self._sent: dict[int, tuple[float, Sent]] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def send(self, sequence: int, sent: Sent, *, now_s: float) -> None:
        """A sequence is sent to the worker now."""
        if len(self._sent) >= SENT_MAX:
            del self._sent[next(iter(self._sent))]
        self._sent[sequence] = (now_s, sent)

    def end(self, sequence: int) -> None:
        """It is not coming, or has left. Unknown ones are ignored."""
        self._sent.pop(sequence, None)

    def report(self, backlog: Backlog, *, now_s: float) -> None:
        """The worker has said how it stands; what was sent clearly before is in that."""
        self._report, self._report_s = backlog, now_s
        for sequence in [each for each, (sent_s, _) in self._sent.items() if sent_s < now_s - GRACE_S]:
            del self._sent[sequence]

    def now(self, curve: StepCurve, *, now_s: float) -> Backlog:
        """The best guess of the worker's work at `now_s`."""
        report = self._report
        extra = list(self._unreported())
        queued = report.queued_tokens + sum(sent.prefill_tokens for sent in extra)
        pairs = report.queued_pairs + sum(sent.pairs for sent in extra)
        done = self._done_share(curve, queued, pairs, elapsed_s=max(0.0, now_s - self._report_s))
        return Backlog(
            waiting=report.waiting + len(extra),
            running=report.running,
            queued_tokens=queued * (1.0 - done),
            queued_pairs=pairs * (1.0 - done),
            context_tokens=report.context_tokens + sum(sent.context_tokens for sent in extra),
            free_blocks=max(0, report.free_blocks - sum(sent.blocks for sent in extra)),
        )

    def _unreported(self) -> Iterator[Sent]:
        return (sent for _, sent in self._sent.values())

    def _done_share(self, curve: StepCurve, tokens: float, pairs: float, *, elapsed_s: float) -> float:
        """How much of the queued prompt tokens is computed by now, 0..1."""
        if tokens <= 0.0:
            return 0.0
        decoding = StepShape(decodes=self._report.running, context_tokens=int(self._report.context_tokens))
        steps = max(1.0, tokens / STEP_TOKENS)
        constant_s = steps * max(curve.base_s, curve.step_s(decoding))
        whole_s = constant_s + curve.prefill_token_s * tokens + curve.pair_s * pairs
        return min(1.0, elapsed_s / whole_s) if whole_s > 0.0 else 1.0
