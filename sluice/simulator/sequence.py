"""One simulated sequence: what it asks for, how far it is, and how its tokens have come so far.

Decides nothing; `instance.py` moves it on, `outcome.py` keeps what remains of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sluice.domain.slo import SloClass
from sluice.simulator.step_log import Deadlines

NO_STEP = -1


@dataclass(slots=True, eq=False)
class BlockTable:
    """The blocks a sequence has in one place."""

    blocks: int = 0  # its length, shared ones included
    held_ids: list[int] = field(default_factory=list)  # hash ids whose blocks it references
    published: int = 0  # leading hash units of its prompt that are in the cache there
    life: int = 0  # of the ledger it belongs to

    def private_blocks(self, unit_blocks: int) -> int:
        """Blocks that no hash id names."""
        return self.blocks - len(self.held_ids) * unit_blocks


@dataclass(slots=True, eq=False, kw_only=True)
class SimSequence:
    """A request of a trace while it is in the fleet. `index` is its row in the workload."""

    index: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int  # how many it will produce; nobody who decides may look
    slo: SloClass
    deadlines: Deadlines
    hash_ids: Sequence[int] = ()  # of its prompt's full hash units, chained

    image_tokens: Sequence[int] = ()  # of the prompt, per image that must be encoded

    prefill_slot: int = -1
    decode_slot: int = -1
    is_held: bool = False  # prefilled for another instance
    tokens: int = 0  # prompt and output so far: the KV it must have before the next token is chosen
    computed: int = 0  # tokens whose KV is where it runs
    produced: int = 0  # output tokens so far
    order: tuple[float, int] = (0.0, 0)  # whose turn it is where it runs: when due if that counts, then of arrival
    table: BlockTable = field(default_factory=BlockTable)  # where it runs
    joined_step: int = NO_STEP  # step of its instance from which it decodes; NO_STEP: it does not
    queued_tokens: int = 0  # its share of what its instance has still to prefill
    queued_pairs: float = 0.0
    attempt: int = 0  # grows when it is placed again; events of an earlier one are void

    cached_tokens: int = 0  # of its prompt, found where it was prefilled
    first_s: float = -1.0
    last_s: float = -1.0  # when its latest token came
    worst_gap_s: float = 0.0
    long_gaps: int = 0
    late_tokens: int = 0
    preempted: int = 0
    moves: int = 0

    def __post_init__(self) -> None:
        self.tokens = self.prompt_tokens

    @property
    def uncomputed(self) -> int:
        """Tokens that must be prefilled."""
        return self.tokens - self.computed

    def note_token(self, gap_s: float, now_s: float) -> None:
        """One more token, `gap_s` after the one before; `produced` does not count it yet."""
        self.worst_gap_s = max(self.worst_gap_s, gap_s)
        self.long_gaps += gap_s > self.deadlines.gap_s_max
        self.late_tokens += now_s > self.deadlines.first_due_s + self.produced * self.deadlines.tpot_s
