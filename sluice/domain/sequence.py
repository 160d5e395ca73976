"""The whole state of one sequence: all another worker needs to carry on with the next token.

It crosses the wire when a sequence starts, is handed off, resumes after a crash or migrates.
The random generator has no state of its own: draws are keyed by (seed, output index).
"""

from dataclasses import dataclass

from sluice.domain.ids import BlockHash, Epoch, RequestId, RouterId, SequenceId
from sluice.domain.image import ImageSpan
from sluice.domain.sampling import SamplingParams
from sluice.domain.slo import WHENEVER, Due


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceState:
    """A sequence between two steps.

    `tokens` is the prompt followed by every output token chosen so far; `prompt_tokens` is the
    length of the prompt alone. `unit_hashes` covers the full hash units of the *prompt*.
    """

    sequence: SequenceId
    request: RequestId
    router: RouterId
    epoch: Epoch
    tokens: tuple[int, ...]
    prompt_tokens: int
    unit_hashes: tuple[BlockHash, ...]
    root: BlockHash
    sampling: SamplingParams
    traceparent: str = ""  # W3C trace context; empty when the request is not traced
    choice: int = 0  # which output of its request this is
    images: tuple[ImageSpan, ...] = ()  # in the prompt, in order
    due: Due = WHENEVER  # when its tokens are, as of when this state was taken
    viewer: SequenceId | None = None  # of an image's own sequence: the one that will read its embeddings

    def __post_init__(self) -> None:
        assert 0 < self.prompt_tokens <= len(self.tokens), "a sequence has a prompt, and outputs follow it"

    @property
    def output_tokens(self) -> int:
        """How many tokens have been chosen; also the index of the next one."""
        return len(self.tokens) - self.prompt_tokens
