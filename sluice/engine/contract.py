"""What a worker may ask of an engine. No torch: fakes, emulators and decisions import this file.

One thread owns an engine; every method is called from it. The engine never blocks on I/O and
never talks to the network. Ownership of KV blocks:

    add ----------> waiting -> prefill -> decode -> finished   blocks freed (full ones stay cached)
    add(hold) ----> waiting -> prefill -> HELD ---- resume --> goes on where it stopped
    hold ---------> prefill | decode ----> HELD \\---- release -> blocks freed
    reserve ------> RESERVED ---- attach ------> prefill | decode -> finished
                        \\------- cancel_reservation -> blocks freed

HELD and RESERVED blocks are never preempted and never evicted: another worker may be reading
or writing them. Who ends those states: `worker/` under the laws of `kv_transfer/`.
Next: `engine.py` for the real one, `worker/step_loop.py` for the caller.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sluice.capacity.step_model import EMPTY, StepShape
from sluice.domain.ids import BlockHash, BlockId, Epoch, SequenceId
from sluice.domain.kv import KvGeometry
from sluice.domain.load import WorkerLoad
from sluice.domain.role import FinishReason
from sluice.domain.sequence import SequenceState


class EmbeddingRows(Protocol):
    """The embeddings of one image, where they lie. Whoever holds them closes them once."""

    @property
    def tokens(self) -> int:
        """How many there are."""
        ...

    def rows(self, first: int, end: int) -> npt.NDArray[np.uint8]:
        """Those of tokens [first, end) as bytes [tokens, levels * hidden * item], in the model's dtype."""
        ...

    def close(self) -> None:
        """They are not read any more. From any thread."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprobs:
    """Log-probabilities of one output token: the chosen one's, and the likeliest `top` in order."""

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOut:
    """One chosen token. `index` counts the sequence's outputs from 0."""

    sequence: SequenceId
    epoch: Epoch
    index: int
    token: int
    finish: FinishReason | None = None
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSpan:
    """Tokens [first, end) of a held sequence whose KV has just been written for one layer group."""

    sequence: SequenceId
    first: int
    end: int
    blocks: tuple[BlockId, ...]  # the sequence's block table, from token 0


class Fence(Protocol):
    """Says when device work queued so far has finished; on the CPU it always has."""

    def wait(self) -> None:
        """Block the calling thread until the KV written before the fence is readable by anyone."""
        ...


GroupListener = Callable[[int, Sequence[KvSpan], Fence], None]
"""Called on the engine's thread, during a step, after layer group `group` is written. Must return at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvExtent:
    """Which KV of a sequence exists now: of its first `computed` tokens, in `blocks` from token 0."""

    computed: int
    blocks: tuple[BlockId, ...]


def always_ready() -> bool:
    """Nothing has to be made for it."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Blocks held for a sequence that is being computed elsewhere.

    `blocks` is a block table with room for all tokens asked for; the first `cached_tokens` tokens
    (a multiple of this worker's block size) are already here and must not be written. Its first step
    would wait for memory until `is_ready`, which may be asked on any thread.
    """

    sequence: SequenceId
    blocks: tuple[BlockId, ...]
    cached_tokens: int
    is_ready: Callable[[], bool] = field(default=always_ready, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step did: `shape` is the work, `seconds` its wall time."""

    tokens: tuple[TokenOut, ...] = ()
    held: tuple[SequenceId, ...] = ()  # sequences whose prefill ended in this step and are now HELD
    failed: tuple[tuple[SequenceId, str], ...] = ()
    shape: StepShape = EMPTY
    preempted: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixChange:
    """Prefix-cache changes since the last call: hashes that can now be hit, and ones that no longer can."""

    stored: tuple[BlockHash, ...] = ()
    removed: tuple[BlockHash, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCounts:
    """Every block of the pool, by state; they add up to `total` after any history."""

    total: int
    free: int  # holding nothing
    cached: int  # holding a reusable prefix, evictable
    active: int  # in a running or waiting sequence's block table
    held: int  # HELD sequences
    reserved: int  # RESERVED for an incoming handoff


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Limits an engine was built with."""

    batch_sequences_max: int = 64
    step_tokens_max: int = 512  # the token budget of one step
    sequence_tokens_max: int = 4096
    waiting_sequences_max: int = 1024


class Engine(Protocol):
    """One model with its KV pool. See the module docstring for who owns which blocks."""

    @property
    def geometry(self) -> KvGeometry: ...

    @property
    def limits(self) -> EngineLimits: ...

    def add(self, state: SequenceState, *, hold: bool) -> None:
        """Queue a sequence; tokens without KV (all of them, less prefix hits) will be prefilled.

        Tokens of an image, and what follows them, wait until its embeddings are provided. With `hold`
        the sequence stops after its first new token and becomes HELD, unless that token finished it.
        Raises InvalidRequestError if it can never fit, OverloadedError if the waiting queue is full.
        """
        ...

    def provide(self, sequence: SequenceId, digest: bytes, embeddings: EmbeddingRows) -> None:
        """The embeddings of an image in the sequence's prompt, closed when it leaves.

        At once if nobody waits for them. Raises InvalidRequestError, and closes them, if they are too few.
        """
        ...

    def hold(self, sequence: SequenceId) -> None:
        """A prefilling or decoding sequence becomes HELD after the last step. Raises IllegalTransitionError."""
        ...

    def kv_of(self, sequence: SequenceId) -> KvExtent:
        """The KV of a prefilling, decoding or HELD sequence; blocks before the last are full and will not change.

        Raises IllegalTransitionError if it is not here or waits without blocks.
        """
        ...

    def resume(self, sequence: SequenceId) -> None:
        """A HELD sequence goes on here after all, where it stopped."""
        ...

    def release(self, sequence: SequenceId) -> None:
        """A HELD sequence now lives elsewhere: free its blocks; full ones stay cached."""
        ...

    def abort(self, sequence: SequenceId) -> None:
        """Forget a waiting, running or HELD sequence and free its blocks. Unknown ones are ignored."""
        ...

    def reserve(self, sequence: SequenceId, *, tokens: int, unit_hashes: Sequence[BlockHash]) -> Reservation:
        """Hold blocks for `tokens` tokens computed elsewhere. Raises ReservationRefusedError if there is no room."""
        ...

    def attach(self, state: SequenceState, *, computed: int) -> None:
        """The KV of a reserved sequence's first `computed` tokens has arrived: go on from there.

        With one token more than that it decodes, with several the rest is prefilled first. The
        reservation had room for `computed` tokens; room for the others is its last blocks or is taken now.
        """
        ...

    def cancel_reservation(self, sequence: SequenceId) -> None:
        """Give a reservation's blocks back. Only when no transfer can still write them."""
        ...

    def state_of(self, sequence: SequenceId) -> SequenceState:
        """The state of a HELD or running sequence, its latest token included."""
        ...

    def has_work(self) -> bool:
        """Whether a step would do anything."""
        ...

    def step(self) -> StepReport:
        """Schedule, run and sample once. Never raises for one sequence's sake: see StepReport.failed."""
        ...

    def load(self) -> WorkerLoad:
        """How busy the engine is; lifecycle and leases are filled in by the worker."""
        ...

    def blocks(self) -> BlockCounts: ...

    def take_prefix_change(self) -> PrefixChange: ...

    def listen(self, listener: GroupListener) -> None:
        """Set who hears of finished layer groups of sequences added with `hold`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a loaded model is, in plain values."""

    name: str
    fingerprint: str
    vocabulary: int
    eos_token_ids: tuple[int, ...]
    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    dtype_bytes: int
    sequence_tokens_max: int
    device: str
    architecture: str = ""
    image_token_bytes: int = 0  # of one image token's embeddings; 0: it reads text alone
    notes: tuple[str, ...] = field(default=())
