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

from sluice.policy.fleet_table import FleetTable, FloatColumn, IntColumn
from sluice.policy.policy import Ask
from sluice.policy.residents import TINY_S, Matrix, Residents

ERROR_MIN: Final = 0.03
"""Added to what the fit says: arrivals are not in it."""

HALF_LOGISTIC: Final = 0.851
"""0.5 + 0.5 tanh(0.851 z) is the normal distribution within 0.01."""

SHARE_MAX: Final = 0.5
"""A worker is never taken to spend more of its time on prompts."""

USUAL_BATCH: Final = 32.0
"""Sequences in the step that stands for how fast a GPU decodes."""

MEMORY_MARGIN: Final = 0.1
"""The last tenth of a KV pool is worth having: running sequences grow."""


FULL: Final = 100.0
"""Of a full pool where only latency counts besides: more than any queue there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much everything counts that is not a miss."""

    latency: float = 0.03  # of the prompts before it, in TTFTs, times the sequences beside it, in TPOTs
    price: float = 0.01  # of the objective's time at the fleet's highest price
    memory: float = 1.0  # of filling the last tenth of a KV pool


class Worth(NamedTuple):
    """Columns over all rows. Only rows that fit mean anything."""

    prompt: FloatColumn  # all that computing the prompt there costs, but for latency
    output: FloatColumn  # all that decoding there costs
    ahead: FloatColumn  # prompt tokens to compute there, this one's last, in TTFTs of this GPU
    beside: FloatColumn  # sequences there, in TPOTs of this GPU
    ttft_s: FloatColumn  # predicted, from now
    tpot_s: FloatColumn
    work_s: FloatColumn  # what the prompt adds to the worker's queue
    late: FloatColumn  # cost of a late first token, of this one only
    slow: FloatColumn  # of slow tokens, of this one only
    prompt_harm: FloatColumn  # to those that decode where the prompt is computed
    output_harm: FloatColumn  # to those that decode where it decodes
    memory: FloatColumn
    prompt_price: FloatColumn
    output_price: FloatColumn


def weigh(ask: Ask, fleet: FleetTable, cached: FloatColumn, residents: Residents, weights: Weights) -> Worth:
    """Every term for every row. `residents` are brought to now.

    An operation on a column takes half a microsecond however few the workers: what can be one operation is.
    """
    rows, slo, output = fleet.rows, ask.slo, max(1.0, ask.output_tokens_expected)
    (
        _, _, _, waiting, running, queued_tokens, context, free_blocks,
        blocks, block_tokens, _, batch_max, step_tokens,
    ) = fleet.ints[:, :rows].astype(np.float64)  # fmt: skip
    (
        queued_pairs, base_s, prefill_token_s, pair_s, decode_s, context_token_s, error, _, price,
    ) = fleet.floats[:, :rows]  # fmt: skip
    sequences = running + waiting
    without_s = base_s + context_token_s * context
    room = np.maximum(step_tokens - running, 1.0)
    tokens = ask.prompt_tokens - cached
    token_s = prefill_token_s + pair_s * (0.5 * cached + 0.5 * (ask.prompt_tokens + 1.0))
    before_it = queued_tokens + tokens
    prompt_s = tokens * token_s
    work_s = prompt_s + np.ceil(tokens / room) * base_s
    steps_before = np.ceil(before_it / room) * (without_s + decode_s * running)

    # The output: one more sequence in every step. Lines: steps as they are, with the prompt's part, with the sequence.
    own_step_s = decode_s + context_token_s * (ask.prompt_tokens + 0.5 * output)
    stretch = 1.0 / (1.0 - np.minimum(residents.prompt_share(rows), SHARE_MAX))
    times_s = np.empty((4, rows))
    as_is_s, stalled_s, tpot_s, ttft_s = times_s
    np.multiply(without_s + decode_s * sequences, stretch, as_is_s)
    np.add(as_is_s, work_s * (1.0 / output), stalled_s)
    np.add(as_is_s, own_step_s * stretch, tpot_s)
    np.add(queued_tokens * prefill_token_s + queued_pairs * pair_s + prompt_s, steps_before, ttft_s)
    steepness = HALF_LOGISTIC / (error + ERROR_MIN)
    pressing = steepness / (times_s + TINY_S)
    prompt_harm, output_harm = residents.harm(slo, pressing[:3], steepness=steepness, sequences=sequences)
    slow, late = _chances(pressing[2:], (slo.tpot_s, slo.ttft_s - ask.waited_s), steepness) * slo.miss_cost
    over = np.maximum(sequences + (1.0 - batch_max), 0.0) / batch_max  # batches that wait to be let in
    slow += over * tpot_s * (slo.miss_cost * output / slo.ttft_s)
    memory = _crowding(free_blocks - (ask.prompt_tokens + output) / block_tokens, blocks) * weights.memory
    per_second = price * (weights.price / (max(1e-12, np.maximum.reduce(price)) * slo.ttft_s))
    prompt_price = per_second * work_s
    output_price = per_second * own_step_s * output
    return Worth(
        prompt=late + prompt_harm + prompt_price,
        output=slow + output_harm + memory + output_price,
        ahead=before_it * prefill_token_s * (1.0 / slo.ttft_s),
        beside=(sequences + 1.0) * (base_s + own_step_s * USUAL_BATCH) * (1.0 / slo.tpot_s),
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        work_s=work_s,
        late=late,
        slow=slow,
        prompt_harm=prompt_harm,
        output_harm=output_harm,
        memory=memory,
        prompt_price=prompt_price,
        output_price=output_price,
    )


def latency_only(worth: Worth) -> Worth:
    """The same with nothing counted but latency, and KV pools that run full."""
    nothing, memory = np.zeros(len(worth.late)), worth.memory * FULL
    return worth._replace(
        prompt=nothing,
        output=memory,
        late=nothing,
        slow=nothing,
        prompt_harm=nothing,
        output_harm=nothing,
        memory=memory,
        prompt_price=nothing,
        output_price=nothing,
    )


class Steps(NamedTuple):
    """What every worker's steps are now."""

    step_s: FloatColumn  # one that only decodes, all that is there in it
    steepness: FloatColumn  # of how a miss becomes likely: less certain predictions are less steep
    sequences: FloatColumn
    crowding: FloatColumn  # how near a preemption is: 0 while a tenth of the KV pool is left, 1 when nothing is


def steps_now(fleet: FleetTable) -> Steps:
    """For all rows."""
    rows = fleet.rows
    sequences = (fleet.running[:rows] + fleet.waiting[:rows]).astype(np.float64)
    step_s = fleet.base_s[:rows] + fleet.context_token_s[:rows] * fleet.context_tokens[:rows]
    return Steps(
        step_s=step_s + fleet.decode_s[:rows] * sequences,
        steepness=HALF_LOGISTIC / (fleet.error[:rows] + ERROR_MIN),
        sequences=sequences,
        crowding=_crowding(fleet.free_blocks[:rows].astype(np.float64), fleet.blocks[:rows]) * (sequences > 0.0),
    )


def _chances(pressing: Matrix, limits_s: tuple[float, float], steepness: FloatColumn) -> Matrix:
    """How likely each line of predictions exceeds its limit, given their `steepness` by the second of them.

    A limit that has passed already is missed.
    """
    chances: Matrix = np.tanh(steepness - np.array(limits_s)[:, np.newaxis] * pressing) * 0.5 + 0.5
    return chances


def _crowding(left_blocks: FloatColumn, blocks: FloatColumn | IntColumn) -> FloatColumn:
    """0 where a tenth of the KV pool is left, 1 where nothing is, at most 2."""
    crowding: FloatColumn = np.minimum(np.maximum(1.0 - left_blocks / (blocks * MEMORY_MARGIN + 1.0), 0.0), 2.0)
    return crowding
