"""One client request, understood: prompts as tokens and hashes, sampling, limits. Plain values.

Made by `intake.py` from what clients send, consumed by `request.py`. Next: `intake.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sluice.domain.ids import BlockHash, Epoch, RequestId, RouterId, SequenceId
from sluice.domain.image import ImageLayout, ImageSpan, parts_of
from sluice.domain.sampling import SamplingParams
from sluice.domain.sequence import SequenceState
from sluice.domain.slo import STANDARD, SloClass


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """One picture of a prompt. `data` is its file, kept for as long as somebody may have to encode it again."""

    name: bytes  # a hash of the file's bytes
    data: bytes
    field: str  # where the client put it
    layout: ImageLayout
    side_max: int = 0  # pixels that its longer side is made before it is looked at; 0: it stays as it is
    is_known: bool = False  # an encode worker had looked at it before this request

    @property
    def parts(self) -> tuple[ImageLayout, ...]:
        """What of it is encoded and brought by itself."""
        return parts_of(self.layout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt. `unit_hashes` chain from `root` over its full hash units."""

    tokens: tuple[int, ...]
    root: BlockHash
    unit_hashes: tuple[BlockHash, ...]
    images: tuple[ImageSpan, ...] = ()
    pictures: tuple[Picture, ...] = ()  # of those spans, each image once


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
    looked_s: float = 0.0  # how long encode workers looked at its pictures before it could be accepted
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


def state_of(
    job: Job,
    prompt: Prompt,
    *,
    sequence: SequenceId,
    choice: int,
    router: RouterId,
    epoch: Epoch,
    output: Sequence[int],
    waited_s: float,
    traceparent: str,
) -> SequenceState:
    """One output of a request as a worker takes it, with what has been chosen of it so far."""
    return SequenceState(
        sequence=sequence,
        request=job.request,
        router=router,
        epoch=epoch,
        tokens=prompt.tokens + tuple(output),
        prompt_tokens=len(prompt.tokens),
        unit_hashes=prompt.unit_hashes,
        root=prompt.root,
        sampling=job.sampling_of(choice),
        traceparent=traceparent,
        choice=choice,
        images=prompt.images,
        due=job.slo.due(waited_s=waited_s, tokens=len(output)),
    )
