"""One client request, understood: prompts as tokens and hashes, sampling, limits. Plain values.

Made by `intake.py` from what clients send, consumed by `request.py`. Next: `intake.py`.
"""

from dataclasses import dataclass, replace

from sluice.domain.ids import BlockHash, RequestId
from sluice.domain.sampling import SamplingParams
from sluice.domain.slo import STANDARD, SloClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt. `unit_hashes` chain from `root` over its full hash units."""

    tokens: tuple[int, ...]
    root: BlockHash
    unit_hashes: tuple[BlockHash, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request ready for admission. Choice p * n + i is output i of prompt p.

    `timeout_s` counts from acceptance. `traceparent` is the client's own trace, if it sent one.
    """

    request: RequestId
    prompts: tuple[Prompt, ...]
    n: int
    sampling: SamplingParams  # of choice 0; choice i draws with seed + i
    stops: tuple[str, ...]
    timeout_s: float
    operation: str = "text_completion"  # or "chat": GenAI conventions' words
    tenant: str = ""
    slo: SloClass = STANDARD
    traceparent: str = ""
    next_index: tuple[int, ...] = ()  # of a resumed request: how many tokens of each choice the client has

    @property
    def choices(self) -> int:
        """How many outputs there will be."""
        return len(self.prompts) * self.n

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once, as clients are billed."""
        return sum(len(prompt.tokens) for prompt in self.prompts)

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier stream of this request broke."""
        return bool(self.next_index)

    def first_index(self, choice: int) -> int:
        """The first token of a choice that the client does not have."""
        return self.next_index[choice] if self.next_index else 0

    def sampling_of(self, choice: int) -> SamplingParams:
        """Sampling of one choice: the outputs of one prompt draw with different seeds."""
        output = choice % self.n
        if output == 0:
            return self.sampling
        return replace(self.sampling, seed=(self.sampling.seed + output) % 2**64)
