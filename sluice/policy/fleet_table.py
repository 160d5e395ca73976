"""What a policy sees of the whole fleet: columns, one row per worker, kept up to date by their owner.

Columns, because a decision over a thousand workers must take microseconds: policies score all rows
at once. The owner (the router, a simulator) writes rows when a worker reports and when it places
something; policies only read. Values are best estimates for *now*: what was placed since the last
report is already in them. Pure. Next: `policy.py`.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from sluice.domain.ids import WorkerId
from sluice.domain.role import Role

ROWS_MIN: Final = 16
STEP_TOKENS: Final = 2048
"""Taken for workers that do not say how much of a prompt they compute in one step."""

PREFILL_BIT: Final = 1
DECODE_BIT: Final = 2
ROLE_BITS: Final = {
    Role.ENCODE: 0,
    Role.PREFILL: PREFILL_BIT,
    Role.DECODE: DECODE_BIT,
    Role.MIXED: PREFILL_BIT | DECODE_BIT,
}

_NOBODY: Final[frozenset[int]] = frozenset()
_Number = TypeVar("_Number", np.int64, np.float64)
FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]

INT_COLUMNS: Final = (
    "is_ready",  # 1: admits work
    "role_bits",
    "gpu_class",  # index into `classes`
    "waiting",  # sequences admitted that have not started
    "running",  # sequences in the batch, prefilling ones included
    "queued_tokens",  # prompt tokens accepted and not yet computed
    "context_tokens",  # summed over the sequences that decode
    "free_blocks",
    "blocks",
    "block_tokens",
    "sequence_tokens_max",
    "batch_sequences_max",
    "step_tokens_max",  # of one engine step: how much of a prompt is computed at once
)
FLOAT_COLUMNS: Final = (
    "queued_pairs",  # query-key pairs of the queued tokens
    "base_s",  # the step curve's coefficients, see capacity.step_curve
    "prefill_token_s",
    "pair_s",
    "decode_s",
    "context_token_s",
    "error",
    "link_bytes_per_s",
    "price_per_s",  # dollars per second of the whole replica
)


class FleetTable:
    """Rows by slot; freed slots are reused. `rows` is one past the highest slot in use.

    Every column is longer than the fleet, so that it can grow.
    """

    is_ready: IntColumn
    role_bits: IntColumn
    gpu_class: IntColumn
    waiting: IntColumn
    running: IntColumn
    queued_tokens: IntColumn
    context_tokens: IntColumn
    free_blocks: IntColumn
    blocks: IntColumn
    block_tokens: IntColumn
    sequence_tokens_max: IntColumn
    batch_sequences_max: IntColumn
    step_tokens_max: IntColumn
    queued_pairs: FloatColumn
    base_s: FloatColumn
    prefill_token_s: FloatColumn
    pair_s: FloatColumn
    decode_s: FloatColumn
    context_token_s: FloatColumn
    error: FloatColumn
    link_bytes_per_s: FloatColumn
    price_per_s: FloatColumn

    def __init__(self, *, classes: Sequence[str] = (), kv_token_bytes: int = 0) -> None:
        self.rows = 0
        self.workers: list[WorkerId] = []  # by slot; "" where free
        self.classes = list(classes)  # names of GPU classes
        self.kv_token_bytes = kv_token_bytes  # KV of one token, what a handoff moves
        self.severed: dict[int, frozenset[int]] = {}  # slot -> those it cannot send KV to at a useful speed
        self._ints: npt.NDArray[np.int64] = np.zeros((len(INT_COLUMNS), 0), dtype=np.int64)
        self._floats: npt.NDArray[np.float64] = np.zeros((len(FLOAT_COLUMNS), 0), dtype=np.float64)
        self._grow(ROWS_MIN)

    def can_send(self, source: int, target: int) -> bool:
        """Whether nothing is known against the link between two workers."""
        return source == target or target not in self.severed.get(source, _NOBODY)

    def add(self, worker: WorkerId) -> int:
        """A row for a new worker, zeros where that can be; returns its slot. The owner fills it in."""
        for slot, name in enumerate(self.workers):
            if not name:
                self.workers[slot] = worker
                break
        else:
            slot = len(self.workers)
            self.workers.append(worker)
            self._grow(slot + 1)
        self.rows = max(self.rows, slot + 1)
        self._clear(slot)
        return slot

    def remove(self, slot: int) -> None:
        """The worker is gone; its row reads as not ready."""
        self.workers[slot] = WorkerId("")
        self.severed.pop(slot, None)
        for source, targets in self.severed.items():
            self.severed[source] = targets - {slot}
        self._clear(slot)
        while self.workers and not self.workers[-1]:
            self.workers.pop()
        self.rows = len(self.workers)

    def _clear(self, slot: int) -> None:
        self._ints[:, slot] = 0
        self._floats[:, slot] = 0.0
        # What policies divide by, so that they need not mind rows without a worker:
        self.block_tokens[slot] = self.batch_sequences_max[slot] = 1
        self.step_tokens_max[slot] = STEP_TOKENS

    def _grow(self, rows: int) -> None:
        size = self._ints.shape[1]
        if rows <= size:
            return
        while size < rows:
            size = max(ROWS_MIN, 2 * size)
        self._ints = _widened(self._ints, size)
        self._floats = _widened(self._floats, size)
        for number, name in enumerate(INT_COLUMNS):
            setattr(self, name, self._ints[number])
        for number, name in enumerate(FLOAT_COLUMNS):
            setattr(self, name, self._floats[number])


def _widened(matrix: npt.NDArray[_Number], size: int) -> npt.NDArray[_Number]:
    more = np.zeros((matrix.shape[0], size - matrix.shape[1]), dtype=matrix.dtype)
    return np.concatenate([matrix, more], axis=1)
