"""One live sequence as the engine keeps it: tokens, block table, how far its KV reaches.

Decides nothing and touches no tensor: `scheduler.py` moves sequences between phases,
`input_builder.py` turns them into tensors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from sluice.domain.block_hash import extend_chain, hashes_of_blocks
from sluice.domain.ids import BlockHash, BlockId, SequenceId
from sluice.domain.image import ImageSpan
from sluice.domain.sampling import SamplingParams
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import EmbeddingRows


class Phase(Enum):
    """Where a sequence is between two steps; see the diagram in `contract.py`."""

    WAITING = auto()
    PREFILL = auto()
    DECODE = auto()
    HELD = auto()


@dataclass(slots=True, eq=False, kw_only=True)
class LiveSequence:
    """A sequence the engine has accepted. KV exists for tokens [0, computed)."""

    accepted: SequenceState
    arrival: int  # grows with every accepted sequence
    due_s: float  # when its first token is due, on the engine's clock; decides who goes first, arrival among equals
    hold: bool  # becomes HELD after its first new token
    block_tokens: int
    embeddings: dict[bytes, EmbeddingRows] = field(default_factory=dict)  # of those of its images that are here
    has_let_go: bool = False  # of embeddings that its computed tokens have read
    has_prompt: bool = False  # it came with its prompt's KV: nobody sends it embeddings
    paced_from: tuple[float, int] | None = None  # when it began to decode here, and its output tokens then
    phase: Phase = Phase.WAITING
    computed: int = 0
    published: int = 0  # leading blocks already offered to the prefix cache
    tokens: list[int] = field(init=False)
    blocks: list[BlockId] = field(default_factory=list)
    block_hashes: list[BlockHash] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = list(self.accepted.tokens)
        self.block_hashes = hashes_of_blocks(self.accepted.unit_hashes, block_tokens=self.block_tokens)
        self.extend_hashes()

    @property
    def sequence(self) -> SequenceId:
        """Its identity."""
        return self.accepted.sequence

    @property
    def sampling(self) -> SamplingParams:
        """How its tokens are chosen."""
        return self.accepted.sampling

    @property
    def output_tokens(self) -> int:
        """Tokens chosen so far, those chosen by earlier owners included."""
        return len(self.tokens) - self.accepted.prompt_tokens

    @property
    def cacheable_hashes(self) -> Sequence[BlockHash]:
        """Hashes that may be hit: the last token must be computed, or there is nothing to sample from."""
        return self.block_hashes[: (len(self.tokens) - 1) // self.block_tokens]

    @property
    def can_restart(self) -> bool:
        """Whether its KV could be computed again here: not without the embeddings of its images."""
        return not (self.has_prompt or self.has_let_go) or not self.accepted.images

    @property
    def lacking(self) -> Iterator[ImageSpan]:
        """Spans of its prompt whose embeddings are sent to it and are not here; none of an image's own sequence."""
        if self.has_prompt or self.accepted.viewer is not None:
            return iter(())
        return (
            span for span in self.accepted.images if span.end > self.computed and span.digest not in self.embeddings
        )

    def let_go_of_read(self) -> None:
        """Close embeddings that every token of their image has read. Only of one that will not be preempted."""
        for digest in list(self.embeddings):
            if all(span.end <= self.computed for span in self.accepted.images if span.digest == digest):
                self.embeddings.pop(digest).close()
                self.has_let_go = True

    def wants(self, digest: bytes) -> bool:
        """Whether it waits for the embeddings of this image."""
        return any(span.digest == digest for span in self.lacking)

    def computable_end(self, start: int) -> int:
        """One past the last token that can be computed from `start` on: images that are not here stop it."""
        return next((max(start, span.first) for span in self.lacking if span.end > start), len(self.tokens))

    def extend_hashes(self) -> None:
        """Continue the hash chain over full blocks that have none, generated tokens included."""
        known, full = len(self.block_hashes), len(self.tokens) // self.block_tokens
        if full <= known:
            return
        parent = self.block_hashes[-1] if known else self.accepted.root
        fresh = extend_chain(parent, self.tokens[known * self.block_tokens : full * self.block_tokens])
        self.block_hashes += hashes_of_blocks(fresh, block_tokens=self.block_tokens)

    def state(self, *, now_s: float) -> SequenceState:
        """All that another worker needs to carry on."""
        due = replace(self.accepted.due, first_in_s=self.due_s - now_s)
        return replace(self.accepted, tokens=tuple(self.tokens), due=due)
