"""What serving a sequence costs at every worker at once: the terms the joint policy adds up.

For all rows of the fleet: how likely the objectives are missed if the prompt is computed, or the output
decoded, there; what that does to the sequences that decode there already; memory, and the price of
the seconds used. A certain miss of a class with `miss_cost` 1 costs 1; the weights of everything else were
found by replaying traces (docs/benchmarks.md). Decides nothing. Pure.
Next: `joint.py`.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.policy.fleet_table import FleetTable, FloatColumn
from sluice.policy.policy import Ask

ERROR_MIN: Final = 0.03
"""Added to what the fit says: arrivals are not in it."""

HALF_LOGISTIC: Final = 0.851
"""0.5 + 0.5 tanh(0.851 z) is the normal distribution within 0.01."""

Matrix = npt.NDArray[np.float64]
SHARE_MAX: Final = 0.5
"""A worker is never taken to spend more of its time on prompts."""

USUAL_BATCH: Final = 32.0
"""Sequences in the step that stands for how fast a GPU decodes."""

MEMORY_MARGIN: Final = 0.1
"""The last tenth of a KV pool is worth having: running sequences grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much everything counts that is not a miss."""

    latency: float = 10.0  # of the prompts before it, in TTFTs, times the sequences beside it, in TPOTs
    price: float = 0.01  # of the objective's time at the fleet's mean price
    memory: float = 10.0  # of filling the last tenth of a KV pool
    stall: float = 0.002  # of one chunk longer than two TPOTs, for each sequence that waits for it


class Worth(NamedTuple):
    """Columns over all rows. Only rows that fit mean anything."""

    ttft_s: FloatColumn  # predicted, from now
    tpot_s: FloatColumn
    work_s: FloatColumn  # what the prompt adds to the worker's queue
    ahead: FloatColumn  # prompts to compute there, this one's last, in TTFTs of this GPU
    beside: FloatColumn  # sequences there, in TPOTs of this GPU
    late: FloatColumn  # cost of a late first token, of this one only
    slow: FloatColumn  # of slow tokens, of this one only
    prompt_harm: FloatColumn  # to those that decode where the prompt is computed
    output_harm: FloatColumn  # to those that decode where it decodes
    memory: FloatColumn
    prompt_price: FloatColumn
    output_price: FloatColumn

    @property
    def prompt(self) -> FloatColumn:
        """All that computing the prompt there costs."""
        return self.late + self.prompt_harm + self.prompt_price

    @property
    def output(self) -> FloatColumn:
        """All that decoding there costs."""
        return self.slow + self.output_harm + self.memory + self.output_price


def weigh(ask: Ask, fleet: FleetTable, cached: FloatColumn, prompt_share: FloatColumn, weights: Weights) -> Worth:
    """Every term for every row. `prompt_share` is the part of its time each worker spends on prompts."""
    seen = _Seen(ask, fleet, cached)
    slo, output = ask.slo, max(1.0, ask.output_tokens_expected)
    miss = slo.miss_cost

    # The output: one more sequence in every step. The prompt: in steps that whoever decodes there waits for.
    own_step_s = seen.decode_s + seen.context_token_s * (ask.prompt_tokens + 0.5 * output)
    stretch = 1.0 / (1.0 - np.minimum(prompt_share, SHARE_MAX))
    before_s = seen.step_s * stretch
    slowed_s = own_step_s * stretch
    after_s = before_s + slowed_s
    chunks = np.ceil(seen.tokens / seen.room)
    work_s = seen.prompt_s + chunks * seen.base_s
    slowed_by_prompt_s = work_s / output
    ttft_s = seen.queue_s + seen.prompt_s + np.ceil((seen.queued_tokens + seen.tokens) / seen.room) * seen.now_s
    chunk_s = seen.now_s + np.minimum(seen.tokens, seen.room) * seen.prefill_token_s
    predicted = np.array([before_s, after_s, before_s + slowed_by_prompt_s, chunk_s, ttft_s])
    limits = np.array([[slo.tpot_s], [slo.tpot_s], [slo.tpot_s], [2.0 * slo.tpot_s], [slo.ttft_s - ask.waited_s]])
    missed_before, missed, missed_stalled, is_long, missed_first = _missed(predicted, seen.error, limits)

    over = np.maximum(0.0, seen.sequences + 1.0 - seen.batch_sequences_max)
    batch_wait_s = over / seen.batch_sequences_max * (output * after_s)
    stall = chunks * is_long * weights.stall
    per_second = weights.price / (max(1e-12, float(seen.price.max())) * slo.ttft_s) * seen.price
    needed = (ask.prompt_tokens + output) / seen.block_tokens
    margin = MEMORY_MARGIN * seen.blocks + 1.0
    memory = np.minimum(np.maximum((margin - seen.free_blocks + needed) / margin, 0.0), 2.0)
    return Worth(
        ttft_s=ttft_s,
        tpot_s=after_s,
        work_s=work_s,
        ahead=(seen.queued_tokens + seen.tokens) * (1.0 / slo.ttft_s * seen.token_s),
        beside=(seen.sequences + 1.0) * (1.0 / slo.tpot_s * (seen.base_s + USUAL_BATCH * own_step_s)),
        late=miss * missed_first,
        slow=miss * missed + (miss / slo.ttft_s) * batch_wait_s,
        prompt_harm=seen.decoding * (miss * (missed_stalled - missed_before) + stall),
        output_harm=seen.sequences * (miss * (missed - missed_before)),
        memory=weights.memory * memory,
        prompt_price=per_second * work_s,
        output_price=per_second * (output * (own_step_s + seen.base_s / seen.batch_sequences_max)),
    )


class _Seen:
    """The fleet's columns as numbers, and what follows from them for one sequence."""

    __slots__ = (
        "base_s",
        "batch_sequences_max",
        "block_tokens",
        "blocks",
        "context_token_s",
        "decode_s",
        "decoding",
        "error",
        "free_blocks",
        "now_s",
        "prefill_token_s",
        "price",
        "prompt_s",
        "queue_s",
        "queued_tokens",
        "room",
        "sequences",
        "step_s",
        "token_s",
        "tokens",
    )

    def __init__(self, ask: Ask, fleet: FleetTable, cached: FloatColumn) -> None:
        (
            _, _, _, waiting, running, self.queued_tokens, context, self.free_blocks,
            self.blocks, self.block_tokens, _, self.batch_sequences_max, step_tokens,
        ) = fleet.ints[:, : fleet.rows].astype(np.float64)  # fmt: skip
        (
            queued_pairs, self.base_s, self.prefill_token_s, pair_s, self.decode_s, self.context_token_s,
            self.error, _, self.price,
        ) = fleet.floats[:, : fleet.rows]  # fmt: skip
        self.sequences = running + waiting
        self.decoding = running * (context > 0.0)
        without_s = self.base_s + self.context_token_s * context
        self.step_s = without_s + self.decode_s * self.sequences
        self.now_s = without_s + self.decode_s * self.decoding
        self.room = np.maximum(1.0, step_tokens - self.decoding)
        self.tokens = ask.prompt_tokens - cached
        mean_context = 0.5 * (cached + (ask.prompt_tokens + 1.0))
        self.token_s = self.prefill_token_s + mean_context * pair_s
        self.prompt_s = self.tokens * self.token_s
        self.queue_s = self.queued_tokens * self.prefill_token_s + queued_pairs * pair_s


def _missed(predicted_s: Matrix, error: FloatColumn, limit_s: Matrix) -> Matrix:
    """How likely durations of these predictions exceed their limits; one prediction per line."""
    steepness = HALF_LOGISTIC / (error + ERROR_MIN)
    # Free rows predict nothing; a limit that has passed already is missed.
    z = (1.0 - limit_s / (predicted_s + 1e-9)) * steepness
    chance: Matrix = 0.5 + 0.5 * np.tanh(z)
    return chance
