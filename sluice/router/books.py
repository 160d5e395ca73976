"""What policies see of one connected worker: its row in the fleet table, from its reports and what was sent since.

A heartbeat is old by up to a heartbeat: what this router placed there too late to be in it is
added, what it moved away since is taken off. Decides nothing, does no I/O.
Next: `fleet.py`, who owns the books of every worker.
"""

from typing import Final, NamedTuple

from sluice.capacity.step_curve import StepCurve
from sluice.domain.ids import SequenceId
from sluice.domain.load import WorkerInfo, WorkerLoad
from sluice.domain.role import Role
from sluice.policy.fleet_table import ROLE_BITS, FleetTable

HEARTBEAT_GRACE_S: Final = 0.1
"""What was sent this shortly before a heartbeat may not be in it."""

HOUR_S: Final = 3600.0
GIGABYTE: Final = 1e9


class _Sent(NamedTuple):
    at_s: float
    prompt: int  # tokens to compute
    pairs: int  # twice their query-key pairs
    arriving: int  # tokens whose KV comes from elsewhere
    blocks: int


_NOTHING: Final = _Sent(0.0, 0, 0, 0, 0)


class Books:
    """One worker's row, and what it does not yet know of."""

    __slots__ = ("_info", "_left", "_load", "_sent", "_slot", "_sum", "_table")

    def __init__(self, table: FleetTable, slot: int, info: WorkerInfo, load: WorkerLoad) -> None:
        self._table = table
        self._slot = slot
        self._info = info
        self._load = load
        self._sent: dict[SequenceId, _Sent] = {}
        self._left: dict[SequenceId, _Sent] = {}  # in the latest report, and moved away since
        self._sum = _NOTHING
        self.beat(info, load, is_ready=False, sequences=0, now_s=0.0)

    def sent(
        self, sequence: SequenceId, *, prefill_tokens: int, context_tokens: int, sequences: int, now_s: float
    ) -> None:
        """A sequence is sent there: `prefill_tokens` to compute, KV of `context_tokens` to keep.

        `sequences` of this router are there now.
        """
        self._forget(sequence)
        sent = self._sent[sequence] = _Sent(
            now_s,
            prompt=prefill_tokens,
            pairs=prefill_tokens * (2 * context_tokens - prefill_tokens),
            arriving=0 if prefill_tokens else context_tokens,
            blocks=-(-context_tokens // self._info.block_tokens),
        )
        self._add(sent, 1)
        self._write_load(sequences)

    def gone(self, sequence: SequenceId, *, sequences: int) -> None:
        """A sequence left; now `sequences` are there."""
        self._forget(sequence)
        self._write_load(sequences)

    def moved_away(self, sequence: SequenceId, *, context_tokens: int, sequences: int, now_s: float) -> None:
        """A sequence decodes elsewhere now; `sequences` are left here."""
        if sequence in self._sent:  # never reported: forgetting it is all
            self.gone(sequence, sequences=sequences)
            return
        blocks = -(-context_tokens // self._info.block_tokens)
        left = self._left[sequence] = _Sent(now_s, prompt=0, pairs=0, arriving=context_tokens, blocks=blocks)
        self._add(left, -1)
        self._write_load(sequences)

    def beat(self, info: WorkerInfo, load: WorkerLoad, *, is_ready: bool, sequences: int, now_s: float) -> None:
        """The worker reports; `sequences` of this router are there."""
        self._info, self._load = info, load
        for sequence, sent in list(self._sent.items()):
            if sent.at_s < now_s - HEARTBEAT_GRACE_S:
                self._forget(sequence)
        for sequence, left in list(self._left.items()):
            if left.at_s < now_s - HEARTBEAT_GRACE_S:
                self._add(self._left.pop(sequence), 1)
        self._table.is_ready[self._slot] = is_ready and info.role is not Role.ENCODE  # not for prompts
        self._write_constants()
        self._write_load(sequences)

    def believe(self, curve: StepCurve) -> None:
        """What is known of its steps now."""
        table, slot = self._table, self._slot
        table.base_s[slot] = curve.base_s
        table.prefill_token_s[slot] = curve.prefill_token_s
        table.pair_s[slot] = curve.pair_s
        table.decode_s[slot] = curve.decode_s
        table.context_token_s[slot] = curve.context_token_s
        table.error[slot] = curve.error

    def _forget(self, sequence: SequenceId) -> None:
        sent = self._sent.pop(sequence, None)
        if sent is not None:
            self._add(sent, -1)

    def _add(self, sent: _Sent, sign: int) -> None:
        _, prompt, pairs, arriving, blocks = self._sum
        self._sum = _Sent(
            0.0,
            prompt + sign * sent.prompt,
            pairs + sign * sent.pairs,
            arriving + sign * sent.arriving,
            blocks + sign * sent.blocks,
        )

    def _write_constants(self) -> None:
        """What a heartbeat may change and a placement does not."""
        table, slot, info, load = self._table, self._slot, self._info, self._load
        table.role_bits[slot] = ROLE_BITS[info.role]
        name = info.gpu_class or info.device
        if name not in table.classes:
            table.classes.append(name)
        table.gpu_class[slot] = table.classes.index(name)
        table.blocks[slot] = info.blocks
        table.block_tokens[slot] = info.block_tokens
        table.sequence_tokens_max[slot] = info.sequence_tokens_max
        table.batch_sequences_max[slot] = info.batch_sequences_max
        table.price_per_s[slot] = info.price_per_h / HOUR_S
        measured = max((link.gb_per_s for link in load.links), default=0.0) * GIGABYTE
        table.link_bytes_per_s[slot] = measured or info.link_bytes_per_s
        table.kv_token_bytes = table.kv_token_bytes or info.kv_token_bytes

    def _write_load(self, sequences: int) -> None:
        table, slot, load, sent = self._table, self._slot, self._load, self._sum
        running = max(0, load.running_sequences - len(self._left))
        reported = load.waiting_sequences + running + len(self._sent)
        table.running[slot] = running
        table.waiting[slot] = max(reported, sequences) - running
        queued = load.waiting_prefill_tokens
        table.queued_tokens[slot] = queued + sent.prompt
        table.queued_pairs[slot] = 0.5 * (queued * queued / max(1, load.waiting_sequences) + sent.pairs)
        is_decoding = self._info.role is not Role.PREFILL
        table.context_tokens[slot] = max(0, load.context_tokens + sent.arriving) if is_decoding else 0
        table.free_blocks[slot] = min(self._info.blocks, max(0, load.free_blocks - sent.blocks))
