"""What a policy sees of the whole fleet: columns, one row per worker, kept up to date by their owner.

Columns, because a decision over a thousand workers must take microseconds: policies score all rows
at once. The owner (the router, a simulator) writes rows when a worker reports and when it places
something; policies only read. Values are best estimates for *now*: what was placed since the last
report is already in them. Pure. Next: `policy.py`.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from sluice.domain.ids import WorkerId
from sluice.domain.role import Role

ROWS_MIN: Final = 16
PREFILL_BIT: Final = 1
DECODE_BIT: Final = 2
ROLE_BITS: Final = {Role.PREFILL: PREFILL_BIT, Role.DECODE: DECODE_BIT, Role.MIXED: PREFILL_BIT | DECODE_BIT}

FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]

_INT_COLUMNS: Final = (
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
_FLOAT_COLUMNS: Final = (
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
    """Rows by slot; freed slots are reused. `rows` is one past the highest slot in use."""

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
        for name in _INT_COLUMNS:
            setattr(self, name, np.zeros(ROWS_MIN, dtype=np.int64))
        for name in _FLOAT_COLUMNS:
            setattr(self, name, np.zeros(ROWS_MIN, dtype=np.float64))

    def add(self, worker: WorkerId) -> int:
        """A row of zeros for a new worker; returns its slot. The owner fills it in."""
        for slot, name in enumerate(self.workers):
            if not name:
                self.workers[slot] = worker
                break
        else:
            slot = len(self.workers)
            self.workers.append(worker)
            self._grow(slot + 1)
        self.rows = max(self.rows, slot + 1)
        return slot

    def remove(self, slot: int) -> None:
        """The worker is gone; its row reads as not ready."""
        self.workers[slot] = WorkerId("")
        for name in (*_INT_COLUMNS, *_FLOAT_COLUMNS):
            getattr(self, name)[slot] = 0
        while self.workers and not self.workers[-1]:
            self.workers.pop()
        self.rows = len(self.workers)

    def _grow(self, rows: int) -> None:
        size = len(self.is_ready)
        if rows <= size:
            return
        for name in (*_INT_COLUMNS, *_FLOAT_COLUMNS):
            column = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
