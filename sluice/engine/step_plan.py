"""One step's work as the scheduler plans it: which tokens of which sequences are computed. Values only.

Next: `scheduler.py`, which makes plans; `runner.py`, which carries them out.
"""

from dataclasses import dataclass

from sluice.capacity.step_model import StepShape, chunk_pairs
from sluice.domain.ids import SequenceId
from sluice.engine.sequence import LiveSequence


@dataclass(frozen=True, slots=True)
class Work:
    """Compute the KV of tokens [first, end) of one sequence in this step."""

    sequence: LiveSequence
    first: int
    end: int

    @property
    def tokens(self) -> int:
        """How many tokens are computed."""
        return self.end - self.first

    @property
    def samples(self) -> bool:
        """Whether the last computed token is the sequence's last: then the next one is chosen."""
        return self.end == len(self.sequence.tokens)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step's work. Decodes compute one token each."""

    decodes: tuple[Work, ...]
    prefills: tuple[Work, ...]
    preempted: int
    lost: tuple[SequenceId, ...] = ()  # given up: their blocks were needed, and their KV cannot be computed again here

    @property
    def prefill_tokens(self) -> int:
        """Tokens computed by prefills."""
        return sum(work.tokens for work in self.prefills)

    @property
    def shape(self) -> StepShape:
        """The work of the step, summed."""
        return StepShape(
            prefill_tokens=self.prefill_tokens,
            prefill_pairs=sum(chunk_pairs(work.tokens, context_tokens=work.first) for work in self.prefills),
            prefills=len(self.prefills),
            decodes=len(self.decodes),
            context_tokens=sum(work.end for work in self.decodes),
        )
