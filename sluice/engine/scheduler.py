"""Which sequences run in the next step, with how many tokens, on which blocks.

Decides as Sarathi-Serve does (Agrawal et al., OSDI 2024): every decode first, then the rest of
half-done prefills, then new prompts, in chunks under one token budget: what still leaves every
decode its promised time between tokens (`capacity/step_budget.py`). Whose first token is due first
goes first, so nobody starves: every sequence becomes the most urgent one in the end.
Never sees a tensor, a clock or a random number. The caller runs a plan and reports back:

    plan() -> StepPlan -> [forward] -> note_computed(work) -> accept(token) or fail() per sample

Blocks for a whole prompt are taken when it is admitted, so a prefill always finishes; a decode
grows block by block. When blocks run out, the sequence that was due last is preempted and
later recomputed, never one that is HELD or will be: another worker may be reading its blocks.
Next: `chunks.py` for how much of prompts, `handover.py` for reservations, `block_pool.py`, `engine.py` for the caller.
"""

from bisect import insort
from collections.abc import Iterable, Iterator
from typing import Final

from sluice.capacity.step_curve import StepCurve
from sluice.domain.ids import BlockHash, BlockId, SequenceId
from sluice.domain.kv import KvGeometry
from sluice.domain.role import FinishReason
from sluice.domain.sequence import SequenceState
from sluice.engine.block_pool import BlockPool
from sluice.engine.chunks import prompt_tokens, take_chunk
from sluice.engine.contract import EngineLimits
from sluice.engine.sequence import LiveSequence, Phase
from sluice.engine.step_plan import StepPlan, Work
from sluice.errors import IllegalTransitionError, InvalidRequestError, OverloadedError, ReservationRefusedError

PASSED_OVER_MAX: Final = 64
"""How many waiting sequences one step passes over because their prefix is being computed."""

RETRY_AFTER_S: Final = 1.0


class Scheduler:
    """The sequences of one engine and their blocks. One thread owns it."""

    def __init__(self, *, geometry: KvGeometry, limits: EngineLimits) -> None:
        assert limits.step_tokens_max > limits.batch_sequences_max, "a full batch of decodes would starve prefills"
        self._geometry = geometry
        self._limits = limits
        self._block_tokens = geometry.block_tokens
        self.pool = BlockPool(geometry.blocks)
        self._live: dict[SequenceId, LiveSequence] = {}
        self._waiting: list[LiveSequence] = []  # both lists in order of their due times
        self._running: list[LiveSequence] = []
        self._in_flight: dict[BlockHash, SequenceId] = {}  # full blocks that running prefills will publish
        self._arrivals = 0
        self._lost: list[SequenceId] = []  # since the last plan

    # ---- what the outside asks for

    def add(self, state: SequenceState, *, hold: bool, now_s: float = 0.0) -> None:
        """Queue a sequence. Raises InvalidRequestError if it can never fit, OverloadedError if the queue is full."""
        self.check_new(state)
        if len(self._waiting) >= self._limits.waiting_sequences_max:
            raise OverloadedError("the engine's waiting queue is full", retry_after_s=RETRY_AFTER_S)
        sequence = self._accept_sequence(state, hold=hold, now_s=now_s)
        insort(self._waiting, sequence, key=_by_due)

    def check_absent(self, sequence_id: SequenceId) -> None:
        """Raise InvalidRequestError if `sequence_id` is live."""
        if sequence_id in self._live:
            remedy = "give every sequence its own id"
            raise InvalidRequestError(field="sequence", problem=f"{sequence_id} is already here", remedy=remedy)

    def check_new(self, state: SequenceState) -> None:
        """Raise InvalidRequestError if `state` could not be served even on an idle engine."""
        self.check_absent(state.sequence)
        longest = self._limits.sequence_tokens_max
        if len(state.tokens) >= longest:
            remedy = f"send at most {longest - 1} tokens, so that one can follow"
            raise InvalidRequestError(field="prompt", problem=f"has {len(state.tokens)} tokens", remedy=remedy)
        if state.output_tokens >= state.sampling.max_tokens:
            remedy = "ask for more tokens than the sequence already has"
            raise InvalidRequestError(
                field="max_tokens", problem=f"{state.output_tokens} are chosen already", remedy=remedy
            )

    def adopt(self, state: SequenceState, *, blocks: list[BlockId], computed: int, now_s: float = 0.0) -> None:
        """Go on with a sequence whose KV of tokens [0, computed) is in `blocks`, referenced for it.

        Takes the blocks that its other tokens lack; raises ReservationRefusedError, and adopts
        nothing, if there are none.
        """
        missing = max(0, self._geometry.blocks_for(len(state.tokens)) - len(blocks))
        if missing and not self.pool.can_take(missing, beside=[]):
            raise ReservationRefusedError(f"{missing} blocks are missing for the tokens still to be prefilled")
        sequence = self._accept_sequence(state, hold=False, now_s=now_s)
        sequence.has_prompt = True
        sequence.blocks = blocks + self.pool.take(missing)
        sequence.computed = computed
        self._publish(sequence)
        self._go_on(sequence)

    def hold(self, sequence_id: SequenceId) -> None:
        """PREFILL or DECODE -> HELD, as it is after the last step."""
        sequence = self.find(sequence_id)
        if sequence.phase not in {Phase.PREFILL, Phase.DECODE}:
            raise IllegalTransitionError(state=sequence.phase.name, event=f"hold of sequence {sequence_id}")
        self._land(sequence, sequence.block_hashes[sequence.published :])
        self._running.remove(sequence)
        sequence.phase = Phase.HELD

    def resume(self, sequence_id: SequenceId) -> None:
        """HELD -> goes on here where it stopped."""
        sequence = self._held(sequence_id, event="resume")
        sequence.hold = False
        self._go_on(sequence)

    def release(self, sequence_id: SequenceId) -> None:
        """HELD -> gone; full blocks stay cached."""
        self._forget(self._held(sequence_id, event="release"))

    def abort(self, sequence_id: SequenceId) -> None:
        """Forget a sequence in any phase; unknown ones are ignored."""
        sequence = self._live.get(sequence_id)
        if sequence is not None:
            self._forget(sequence)

    def waiting_for(self, sequence_id: SequenceId, digest: bytes) -> LiveSequence | None:
        """The sequence, if it is live and will read this image, which it does not have yet."""
        sequence = self._live.get(sequence_id)
        return sequence if sequence is not None and sequence.wants(digest) else None

    def find(self, sequence_id: SequenceId) -> LiveSequence:
        """A live sequence. Raises IllegalTransitionError for one that is not here."""
        sequence = self._live.get(sequence_id)
        if sequence is None:
            raise IllegalTransitionError(state="UNKNOWN", event=f"state_of {sequence_id}")
        return sequence

    def has_work(self) -> bool:
        """Whether plan() would find something to do.

        False while everybody waits for images, or for blocks that are held or reserved: no step can bring those.
        """
        if any(sequence.phase is Phase.DECODE or not self._is_stalled(sequence) for sequence in self._running):
            return True
        movable = (one for one in self._waiting if not self._is_stalled(one) and not self._waits_for_sibling(one))
        return (first := next(movable, None)) is not None and self._room_for(first) is not None

    # ---- one step

    def plan(self, curve: StepCurve | None = None, *, now_s: float = 0.0) -> StepPlan:
        """Choose the next step's work and take the blocks for it. `curve` is how long steps take here, once known."""
        decoding, preempted = self._grow_decodes()
        most = self._limits.step_tokens_max - len(decoding)
        budget = prompt_tokens(self._running, decoding, curve, now_s=now_s, tokens_max=most)
        prefills: list[Work] = []
        for sequence in self._running:
            if sequence.phase is Phase.PREFILL and budget > 0:
                budget -= take_chunk(sequence, budget, prefills)
        if preempted == 0 and budget > 0:
            for sequence in self._admit():
                budget -= take_chunk(sequence, budget, prefills)
                if budget <= 0:
                    break
        decodes = tuple(Work(sequence, sequence.computed, sequence.computed + 1) for sequence in decoding)
        lost, self._lost = tuple(self._lost), []
        return StepPlan(decodes=decodes, prefills=tuple(prefills), preempted=preempted, lost=lost)

    def note_computed(self, work: Work) -> None:
        """The KV that `work` names is written."""
        sequence = work.sequence
        sequence.computed = work.end
        self._publish(sequence)
        if sequence.hold and sequence.embeddings:
            sequence.let_go_of_read()  # room for the next image; held ones are never computed again here

    def accept(self, sequence: LiveSequence, *, token: int, finish: FinishReason | None) -> None:
        """The next token of a sequence whose tokens are all computed; with `finish` it is the last."""
        sequence.tokens.append(token)
        if finish is not None:
            self._forget(sequence)
        elif sequence.hold:
            self._running.remove(sequence)
            sequence.phase = Phase.HELD
        else:
            sequence.phase = Phase.DECODE

    def fail(self, sequence: LiveSequence) -> list[BlockId]:
        """Give a sequence up whose KV may be wrong; returns the blocks that only it used."""
        private = [block for block in sequence.blocks if self.pool.is_private(block)]
        self.pool.unpublish(private)
        self._forget(sequence)
        return private

    # ---- how it is done

    def _go_on(self, sequence: LiveSequence) -> None:
        """Decode, once whatever is left of its tokens has been prefilled."""
        sequence.paced_from = None
        if sequence.computed == len(sequence.tokens) - 1:
            sequence.phase = Phase.DECODE
        else:
            sequence.phase = Phase.PREFILL
            self._take_off(sequence)
        insort(self._running, sequence, key=_by_due)

    def _accept_sequence(self, state: SequenceState, *, hold: bool, now_s: float) -> LiveSequence:
        sequence = LiveSequence(
            accepted=state,
            arrival=self._arrivals,
            due_s=now_s + state.due.first_in_s,
            hold=hold,
            block_tokens=self._block_tokens,
        )
        self._arrivals += 1
        self._live[state.sequence] = sequence
        return sequence

    def _held(self, sequence_id: SequenceId, *, event: str) -> LiveSequence:
        sequence = self._live.get(sequence_id)
        if sequence is None or sequence.phase is not Phase.HELD:
            state = "UNKNOWN" if sequence is None else sequence.phase.name
            raise IllegalTransitionError(state=state, event=f"{event} of sequence {sequence_id}")
        return sequence

    def _grow_decodes(self) -> tuple[list[LiveSequence], int]:
        """Decodes that run in this step, each with room for one more token; and how many were preempted."""
        decoding: list[LiveSequence] = []
        preempted = 0
        for sequence in tuple(self._running):
            if sequence.phase is not Phase.DECODE or len(decoding) == self._limits.batch_sequences_max:
                continue  # preempted a moment ago, still prefilling, or beyond the batch
            while sequence.computed == len(sequence.blocks) * self._block_tokens:
                if self.pool.available_blocks > 0:
                    sequence.blocks += self.pool.take(1)
                    continue
                victim = self._last_preemptible()
                self._preempt(victim)
                preempted += 1
                if victim is sequence:
                    break
            if sequence.phase is Phase.DECODE:
                decoding.append(sequence)
        return decoding, preempted

    def _last_preemptible(self) -> LiveSequence:
        """The running sequence that was due last and that no other worker may read; one that can restart, if any."""
        mine = [sequence for sequence in reversed(self._running) if not sequence.hold]
        return next((sequence for sequence in mine if sequence.can_restart), mine[0])

    def _preempt(self, sequence: LiveSequence) -> None:
        if not sequence.can_restart:
            self._forget(sequence)
            sequence.phase = Phase.WAITING
            self._lost.append(sequence.sequence)
            return
        self._running.remove(sequence)
        self._let_blocks_go(sequence)
        sequence.phase, sequence.paced_from = Phase.WAITING, None
        sequence.extend_hashes()
        insort(self._waiting, sequence, key=_by_due)

    def _admit(self) -> Iterator[LiveSequence]:
        """Waiting sequences that can start, in order of their due times; each has its blocks when it is yielded."""
        passed_over = 0
        for sequence in tuple(self._waiting):
            if len(self._running) >= self._limits.batch_sequences_max or passed_over == PASSED_OVER_MAX:
                return
            if self._is_stalled(sequence):
                continue  # and whoever comes after it may overtake: it holds no blocks and would use none
            if self._waits_for_sibling(sequence):
                passed_over += 1
                continue
            shared = self._room_for(sequence)
            if shared is None:
                return  # whose turn it is waits for its blocks: nobody smaller overtakes
            self._start_prefill(sequence, shared)
            yield sequence

    def _waits_for_sibling(self, sequence: LiveSequence) -> bool:
        """Whether somebody is computing the very block that `sequence` needs next.

        One or a few steps later it is a hit. The other holds all its blocks already, so it comes
        to its end, and two sequences never wait for each other.
        """
        hashes = sequence.cacheable_hashes
        known = len(self.pool.find(hashes))
        sibling = self._in_flight.get(hashes[known]) if known < len(hashes) else None
        return sibling is not None and not self._is_stalled(self._live[sibling])

    def _is_stalled(self, sequence: LiveSequence) -> bool:
        """Whether the next token to compute of a waiting or prefilling sequence is of an image that is not here yet."""
        if next(sequence.lacking, None) is None:
            return False
        start = sequence.computed
        if sequence.phase is Phase.WAITING:
            start = len(self.pool.find(sequence.cacheable_hashes)) * self._block_tokens
        return sequence.computable_end(start) == start

    def _room_for(self, sequence: LiveSequence) -> list[BlockId] | None:
        """The cached blocks that a waiting sequence would share, or None if the rest cannot be taken now."""
        shared = self.pool.find(sequence.cacheable_hashes)
        missing = self._geometry.blocks_for(len(sequence.tokens)) - len(shared)
        return shared if self.pool.can_take(missing + self.headroom_blocks(), beside=shared) else None

    def headroom_blocks(self) -> int:
        """Blocks that newcomers leave free, so that every running decode can grow once before a preemption."""
        return sum(sequence.phase is Phase.DECODE for sequence in self._running)

    def _start_prefill(self, sequence: LiveSequence, shared: list[BlockId]) -> None:
        self.pool.share(shared)
        missing = self._geometry.blocks_for(len(sequence.tokens)) - len(shared)
        sequence.blocks = shared + self.pool.take(missing)
        sequence.computed = len(shared) * self._block_tokens
        sequence.published = len(shared)
        sequence.phase = Phase.PREFILL
        self._take_off(sequence)
        self._waiting.remove(sequence)
        insort(self._running, sequence, key=_by_due)

    def _publish(self, sequence: LiveSequence) -> None:
        """Offer blocks that have just become full to the prefix cache."""
        full = sequence.computed // self._block_tokens
        if full <= sequence.published:
            return
        sequence.extend_hashes()
        for index in range(sequence.published, full):
            self.pool.publish(sequence.blocks[index], sequence.block_hashes[index])
        self._land(sequence, sequence.block_hashes[sequence.published : full])
        sequence.published = full

    def _take_off(self, sequence: LiveSequence) -> None:
        """Its full blocks that are not published yet are being computed from now on."""
        for block_hash in sequence.block_hashes[sequence.published :]:
            self._in_flight.setdefault(block_hash, sequence.sequence)

    def _land(self, sequence: LiveSequence, hashes: Iterable[BlockHash]) -> None:
        """`hashes` are no longer being computed by `sequence`."""
        for block_hash in hashes:
            if self._in_flight.get(block_hash) == sequence.sequence:
                del self._in_flight[block_hash]

    def _let_blocks_go(self, sequence: LiveSequence) -> None:
        self._land(sequence, sequence.block_hashes[sequence.published :])
        self.pool.drop(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.published = 0

    def _forget(self, sequence: LiveSequence) -> None:
        match sequence.phase:
            case Phase.WAITING:
                self._waiting.remove(sequence)
            case Phase.PREFILL | Phase.DECODE:
                self._running.remove(sequence)
            case Phase.HELD:
                pass
        self._let_blocks_go(sequence)
        for embeddings in sequence.embeddings.values():
            embeddings.close()
        del self._live[sequence.sequence]

    # ---- what the outside may look at

    @property
    def sequences(self) -> Iterable[LiveSequence]:
        """All live sequences, in no particular order."""
        return self._live.values()

    @property
    def waiting(self) -> list[LiveSequence]:
        """Waiting sequences, the most urgent first."""
        return self._waiting

    @property
    def running(self) -> list[LiveSequence]:
        """Prefilling and decoding sequences, those due first in front."""
        return self._running

    def check_integrity(self) -> None:
        """Assert what must hold between two steps, apart from the pool's own laws."""
        assert len(self._waiting) + len(self._running) <= len(self._live)
        running = {sequence.sequence for sequence in self._running}
        assert set(self._in_flight.values()) <= running, "a block is waited for that nobody computes"


def _by_due(sequence: LiveSequence) -> tuple[float, int]:
    return sequence.due_s, sequence.arrival
