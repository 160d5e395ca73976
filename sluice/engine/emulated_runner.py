"""Runs steps without a GPU: real KV of the emulated model in real blocks, in the time a step model says.

Writes the KV of every computed token, announces layer groups as their share of the step passes, and
reads KV back to choose tokens: all of it when a sequence comes with KV from elsewhere (a handoff, a
migration, a cached prefix), a sample at every step. No torch. Next: `emulated_model.py`, `pace.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sluice.domain.ids import BlockId
from sluice.domain.kv import K_AND_V, KvGeometry
from sluice.engine import emulated_model
from sluice.engine.contract import GroupListener, KvSpan, Logprobs, ModelFacts, always_ready
from sluice.engine.emulated_model import TokenRule
from sluice.engine.pace import Pace
from sluice.engine.runner import Choice, Sampled
from sluice.engine.sequence import LiveSequence
from sluice.engine.step_plan import StepPlan, Work

Positions = NDArray[np.int64]

KEPT_MIN: Final = 256  # sequences remembered before the gone ones are looked for
_SPOT: Final = 2_654_435_761


class Now:
    """The fence of KV that is written already."""

    def wait(self) -> None:
        """Return at once."""


@dataclass(slots=True)
class _Kept:
    """What is known of one sequence: its tokens' marks, and how far its KV was found or made right."""

    marks: list[int] = field(default_factory=list)
    checked: int = 0
    wrong: int = 0  # 0: every word read so far was right


class EmulatedRunner:
    """The emulated model over one KV region in main memory. Satisfies `runner.ModelRunner`."""

    def __init__(
        self,
        facts: ModelFacts,
        geometry: KvGeometry,
        memory: memoryview,
        *,
        rule: TokenRule,
        pace: Pace,
        reads_all: bool = False,
        on_wrong_kv: Callable[[str], None] = lambda _what: None,
    ) -> None:
        """Over `memory`, exactly the region's size. With `reads_all` every step reads all KV it decodes over."""
        assert geometry.group_layers == 1, "the emulated model keeps one layer per group"
        self.facts = facts
        self._geometry = geometry
        self._rule = rule
        self._pace = pace
        self._reads_all = reads_all
        self._on_wrong_kv = on_wrong_kv
        words = np.frombuffer(memory, dtype=np.uint32)
        # One layer a group: [group][block][layer in group][K/V][token] has no layer axis left.
        self._pool = words.reshape(geometry.layers, geometry.blocks, K_AND_V, geometry.block_tokens)
        self._kept: dict[LiveSequence, _Kept] = {}
        self._kept_after_look = 0

    @property
    def kv_address(self) -> int:
        return int(self._pool.ctypes.data)

    @property
    def kv_device(self) -> str:
        return "cpu"

    def run(self, plan: StepPlan, listener: GroupListener | None) -> Sequence[Sampled]:
        self._pace.begin(plan.shape)
        self._forget_gone()
        works = (*plan.decodes, *plan.prefills)
        for work in works:
            self._catch_up(work)
        for work in plan.prefills:
            self._write(self._slots(work.sequence, np.arange(work.first, work.end)), self._marks(work))
        self._write_decodes(plan.decodes)
        self._announce(works, listener)
        sampled = [Sampled(work.sequence, self._choose(work)) for work in works if work.samples]
        self._pace.reach(1.0)
        return sampled

    def scrub(self, blocks: list[BlockId]) -> None:
        self._pool[:, blocks] = 0

    def expect(self, tokens: int) -> Callable[[], bool]:  # noqa: ARG002 - nothing depends on it
        return always_ready

    def rest(self) -> None:
        self._pace.rest()

    # ---------------------------------------------------------------- writing

    def _catch_up(self, work: Work) -> None:
        """Know the marks of all tokens up to the work's end; read the KV before it that this runner did not write."""
        kept = self._kept.setdefault(work.sequence, _Kept())
        emulated_model.extend_marks(kept.marks, work.sequence.tokens, end=work.end)
        if work.first != kept.checked:
            self._read(work.sequence, kept, np.arange(work.first))
        kept.checked = work.end

    def _marks(self, work: Work) -> list[int]:
        return self._kept[work.sequence].marks[work.first : work.end]

    def _write_decodes(self, decodes: Sequence[Work]) -> None:
        """One token each, all at once."""
        if not decodes:
            return
        size = self._geometry.block_tokens
        blocks = np.array([work.sequence.blocks[work.first // size] for work in decodes])
        offsets = np.array([work.first % size for work in decodes])
        self._write((blocks, offsets), [self._kept[work.sequence].marks[work.first] for work in decodes])

    def _write(self, slots: tuple[Positions, Positions], marks: Sequence[int]) -> None:
        blocks, offsets = slots
        self._pool[:, blocks, :, offsets] = emulated_model.kv_of(marks, layers=self._geometry.layers)

    def _slots(self, sequence: LiveSequence, positions: Positions) -> tuple[Positions, Positions]:
        """Blocks and offsets in them of a sequence's tokens."""
        table = np.array(sequence.blocks, dtype=np.int64)
        return table[positions // self._geometry.block_tokens], positions % self._geometry.block_tokens

    def _announce(self, works: Sequence[Work], listener: GroupListener | None) -> None:
        spans = [
            KvSpan(sequence=work.sequence.sequence, first=work.first, end=work.end, blocks=tuple(work.sequence.blocks))
            for work in works
            if work.sequence.hold
        ]
        if listener is None or not spans:
            return
        for group in range(self._geometry.groups):
            self._pace.reach((group + 1) / self._geometry.groups)
            listener(group, spans, Now())

    # ---------------------------------------------------------------- reading

    def _choose(self, work: Work) -> Choice:
        """The token that the KV in memory leads to, right or wrong."""
        sequence, kept = work.sequence, self._kept[work.sequence]
        if self._reads_all:
            self._read(sequence, kept, np.arange(work.end))
        else:
            self._read_one(sequence, kept, work.end * _SPOT % (1 << 32) % work.end)
        sampling = sequence.sampling
        token = emulated_model.next_token(
            kept.marks[work.end - 1],
            kept.wrong,
            sampling=sampling,
            output_tokens=sequence.output_tokens,
            rule=self._rule,
        )
        if sampling.top_logprobs is None:
            return Choice(token=token, logprobs=None, is_valid=True)
        top = ((token, 0.0),) if sampling.top_logprobs else ()
        return Choice(token=token, logprobs=Logprobs(chosen=0.0, top=top), is_valid=True)

    def _read(self, sequence: LiveSequence, kept: _Kept, positions: Positions) -> None:
        """Compare the KV of these tokens with what it should be, and remember what differs."""
        if not len(positions):
            return
        blocks, offsets = self._slots(sequence, positions)
        expected = emulated_model.kv_of(kept.marks[: len(positions)], layers=self._geometry.layers)
        differs = self._pool[:, blocks, :, offsets] != expected
        if differs.any():
            wrong = np.flatnonzero(differs.any(axis=(1, 2)))
            self._note_wrong(sequence, kept, first=int(wrong[0]), last=int(wrong[-1]), words=int(differs.sum()))

    def _read_one(self, sequence: LiveSequence, kept: _Kept, position: int) -> None:
        """One word of one token: cheap enough for every step."""
        size = self._geometry.block_tokens
        word = int(self._pool[0, sequence.blocks[position // size], 0, position % size])
        if word != (kept.marks[position] * 3 + _SPOT) & 0xFFFFFFFF:
            self._note_wrong(sequence, kept, first=position, last=position, words=1)

    def _note_wrong(self, sequence: LiveSequence, kept: _Kept, *, first: int, last: int, words: int) -> None:
        size = self._geometry.block_tokens
        blocks = sorted({sequence.blocks[at // size] for at in range(first, last + 1)})
        what = f"tokens {first}..{last} of {len(kept.marks)}, blocks {blocks} of {sequence.blocks}"
        kept.wrong = (kept.wrong * 31 + words * _SPOT + first + 1) & 0xFFFFFFFF or 1
        self._on_wrong_kv(f"sequence {sequence.sequence} reads KV that is not its own: {what}")

    def _forget_gone(self) -> None:
        """Sequences without blocks have ended, or will be computed anew."""
        if len(self._kept) > max(KEPT_MIN, 2 * self._kept_after_look):
            self._kept = {sequence: kept for sequence, kept in self._kept.items() if sequence.blocks}
            self._kept_after_look = len(self._kept)
