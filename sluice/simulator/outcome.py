"""What became of every request of a run: columns, one entry a request, and what follows from them.

Decides nothing. Rejected and unfinished requests count as misses everywhere.
Next: `summary.py` for the figures printed.
"""

from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from sluice.simulator.sequence import SimSequence

FloatColumn = npt.NDArray[np.float64]
BoolColumn = npt.NDArray[np.bool_]
LONG_GAPS_SHARE_MAX: Final = 0.01  # of a request's gaps may exceed the limit: its P99 ITL meets it


class Fate(IntEnum):
    """How a request ended."""

    PENDING = 0
    FINISHED = 1
    REJECTED = 2
    LOST = 3  # unfinished when the run's time was over


class Outcome:
    """Columns by the request's index in the workload. Times are seconds; NaN where there is none."""

    def __init__(self, requests: int) -> None:
        self.fate = np.zeros(requests, dtype=np.int8)
        self.ttft_s = np.full(requests, np.nan)
        self.tpot_s = np.full(requests, np.nan)  # mean after the first token; NaN for one token
        self.end_s = np.full(requests, np.nan)  # when its last token came
        self.worst_gap_s = np.zeros(requests)
        self.long_gaps = np.zeros(requests, dtype=np.int32)
        self.late_tokens = np.zeros(requests, dtype=np.int32)
        self.output_tokens = np.zeros(requests, dtype=np.int32)
        self.cached_tokens = np.zeros(requests, dtype=np.int32)
        self.preempted = np.zeros(requests, dtype=np.int16)
        self.moves = np.zeros(requests, dtype=np.int16)
        self.prefill_slot = np.full(requests, -1, dtype=np.int32)
        self.decode_slot = np.full(requests, -1, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.fate)

    def finish(self, sequence: SimSequence) -> None:
        """Its last token came."""
        index = sequence.index
        self.fate[index] = Fate.FINISHED
        self.ttft_s[index] = sequence.first_s - sequence.arrival_s
        self.end_s[index] = sequence.last_s
        if sequence.output_tokens > 1:
            self.tpot_s[index] = (sequence.last_s - sequence.first_s) / (sequence.output_tokens - 1)
        self.worst_gap_s[index] = sequence.worst_gap_s
        self.long_gaps[index] = sequence.long_gaps
        self.late_tokens[index] = sequence.late_tokens
        self.output_tokens[index] = sequence.output_tokens
        self.cached_tokens[index] = sequence.cached_tokens
        self.preempted[index] = sequence.preempted
        self.moves[index] = sequence.moves
        self.prefill_slot[index] = sequence.prefill_slot
        self.decode_slot[index] = sequence.decode_slot

    def end(self, index: int, fate: Fate) -> None:
        """It will not finish."""
        self.fate[index] = fate

    @property
    def is_finished(self) -> BoolColumn:
        """Which requests got all their tokens."""
        finished: BoolColumn = self.fate == Fate.FINISHED
        return finished

    def meets_ttft(self, ttft_s: FloatColumn | float) -> BoolColumn:
        """Whose first token came in time."""
        met: BoolColumn = self.is_finished & (np.nan_to_num(self.ttft_s, nan=np.inf) <= ttft_s)
        return met

    def meets_tpot(self, tpot_s: FloatColumn | float) -> BoolColumn:
        """Whose mean gap is small enough; one token has no gap."""
        met: BoolColumn = self.is_finished & (np.nan_to_num(self.tpot_s, nan=0.0) <= tpot_s)
        return met

    def meets_deadlines(self) -> BoolColumn:
        """Whose every token came by its own deadline, the first included."""
        met: BoolColumn = self.is_finished & (self.late_tokens == 0)
        return met

    def meets_itl(self) -> BoolColumn:
        """Whose P99 gap was within the limit."""
        allowed = np.floor(LONG_GAPS_SHARE_MAX * np.maximum(self.output_tokens - 1, 0))
        met: BoolColumn = self.is_finished & (self.long_gaps <= allowed)
        return met
