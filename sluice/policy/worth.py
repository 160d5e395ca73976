"""What serving a sequence costs at every worker at once: the terms the joint policy adds up.

For all rows of the fleet: how likely the objectives are missed if the prompt is computed, or the output
decoded, there; what that does to the sequences that decode there already; memory, and the price of
the seconds used. A certain miss of a class with `miss_cost` 1 costs 1; the weights of everything else were
found by replaying traces (docs/benchmarks.md). Decides nothing. Pure.
Next: `ways.py`.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.policy.compiled import compiled
from sluice.policy.fleet_table import FleetTable, FloatColumn, IntColumn
from sluice.policy.policy import Ask
from sluice.policy.residents import Residents

Matrix = npt.NDArray[np.float64]

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

UNKNOWN: Final = 1e-6
"""A trace of every newcomer's own class: where nothing was placed yet, all who are there count as of that class."""

TINY_S: Final = 1e-9
"""Free rows predict nothing."""


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


class Newcomer(NamedTuple):
    """What the loop is told of the request, and the weights."""

    prompt_tokens: float
    output_tokens: float
    ttft_left_s: float  # of its objective
    ttft_s: float
    tpot_s: float
    miss_cost: float
    line: int  # of its class among the residents
    memory_weight: float
    price_weight: float


def weigh(ask: Ask, fleet: FleetTable, cached: FloatColumn, residents: Residents, weights: Weights) -> Worth:
    """Every term for every row. `residents` are brought to now."""
    slo = ask.slo
    newcomer = Newcomer(
        prompt_tokens=float(ask.prompt_tokens),
        output_tokens=max(1.0, ask.output_tokens_expected),
        ttft_left_s=slo.ttft_s - ask.waited_s,
        ttft_s=slo.ttft_s,
        tpot_s=slo.tpot_s,
        miss_cost=slo.miss_cost,
        line=residents.line(slo),
        memory_weight=weights.memory,
        price_weight=weights.price,
    )
    worth = Worth(*np.empty((len(Worth._fields), fleet.rows)))
    _weigh_all(
        newcomer,
        fleet.waiting,
        fleet.running,
        fleet.queued_tokens,
        fleet.queued_pairs,
        fleet.context_tokens,
        fleet.free_blocks,
        fleet.blocks,
        fleet.block_tokens,
        fleet.batch_sequences_max,
        fleet.step_tokens_max,
        fleet.base_s,
        fleet.prefill_token_s,
        fleet.pair_s,
        fleet.decode_s,
        fleet.context_token_s,
        fleet.error,
        fleet.price_per_s,
        cached,
        residents.outputs,
        residents.prompt_share(fleet.rows),
        residents.classes,
        worth,
    )
    return worth


@compiled
def _weigh_all(  # noqa: PLR0917 - columns, all of which count
    new: Newcomer, waiting: IntColumn, running: IntColumn, queued_tokens: IntColumn, queued_pairs: FloatColumn,
    context_tokens: IntColumn, free_blocks: IntColumn, blocks: IntColumn, block_tokens: IntColumn,
    batch_sequences_max: IntColumn, step_tokens_max: IntColumn, base_s: FloatColumn, prefill_token_s: FloatColumn,
    pair_s: FloatColumn, decode_s: FloatColumn, context_token_s: FloatColumn, error: FloatColumn,
    price_per_s: FloatColumn, cached: FloatColumn, residents: Matrix, prompt_share: FloatColumn, classes: Matrix,
    worth: Worth,
) -> None:  # fmt: skip
    """Fill `worth`. `residents` [classes, slots] were placed lately; a line of `classes` is (tpot_s, miss_cost)."""
    rows = len(worth.prompt)
    price_max = 1e-12
    for at in range(rows):
        price_max = max(price_max, price_per_s[at])
    for at in range(rows):
        sequences = running[at] + waiting[at]
        without_s = base_s[at] + context_token_s[at] * context_tokens[at]
        steepness = HALF_LOGISTIC / (error[at] + ERROR_MIN)

        # The prompt: what is queued before it, chunk by chunk in steps that others decode in.
        room = max(step_tokens_max[at] - running[at], 1.0)
        tokens = new.prompt_tokens - cached[at]
        before_it = queued_tokens[at] + tokens
        own_s = tokens * (prefill_token_s[at] + pair_s[at] * (0.5 * cached[at] + 0.5 * (new.prompt_tokens + 1.0)))
        work_s = own_s + math.ceil(tokens / room) * base_s[at]
        steps_s = math.ceil(before_it / room) * (without_s + decode_s[at] * running[at])
        ttft_s = queued_tokens[at] * prefill_token_s[at] + queued_pairs[at] * pair_s[at] + own_s + steps_s
        late = _chance(ttft_s, new.ttft_left_s, steepness) * new.miss_cost

        # The output: one more sequence in every step. Steps as they are, with the prompt's part, with the sequence.
        own_step_s = decode_s[at] + context_token_s[at] * (new.prompt_tokens + 0.5 * new.output_tokens)
        stretch = 1.0 / (1.0 - min(prompt_share[at], SHARE_MAX))
        as_is_s = (without_s + decode_s[at] * sequences) * stretch
        stalled_s, tpot_s = as_is_s + work_s / new.output_tokens, as_is_s + own_step_s * stretch
        over = max(sequences + 1.0 - batch_sequences_max[at], 0.0) / batch_sequences_max[at]
        slow = _chance(tpot_s, new.tpot_s, steepness) * new.miss_cost  # and batches wait to be let in:
        slow += over * tpot_s * (new.miss_cost * new.output_tokens / new.ttft_s)

        times_s = (as_is_s, stalled_s, tpot_s)
        prompt_harm, output_harm = _harm(times_s, steepness, sequences, classes, residents[:, at], new.line)
        left_blocks = free_blocks[at] - (new.prompt_tokens + new.output_tokens) / block_tokens[at]
        crowding = 1.0 - left_blocks / (blocks[at] * MEMORY_MARGIN + 1.0)
        memory = min(max(crowding, 0.0), 2.0) * new.memory_weight
        per_second = price_per_s[at] * new.price_weight / (price_max * new.ttft_s)
        prompt_price, output_price = per_second * work_s, per_second * own_step_s * new.output_tokens
        worth.prompt[at] = late + prompt_harm + prompt_price
        worth.output[at] = slow + output_harm + memory + output_price
        worth.ahead[at] = before_it * prefill_token_s[at] / new.ttft_s
        worth.beside[at] = (sequences + 1.0) * (base_s[at] + own_step_s * USUAL_BATCH) / new.tpot_s
        worth.ttft_s[at], worth.tpot_s[at], worth.work_s[at] = ttft_s, tpot_s, work_s
        worth.late[at], worth.slow[at], worth.memory[at] = late, slow, memory
        worth.prompt_harm[at], worth.output_harm[at] = prompt_harm, output_harm
        worth.prompt_price[at], worth.output_price[at] = prompt_price, output_price


@compiled
def _harm(  # noqa: PLR0917 - all numbers
    times_s: tuple[float, float, float],
    steepness: float,
    sequences: float,
    classes: Matrix,
    lately: FloatColumn,
    newcomer: int,
) -> tuple[float, float]:
    """What it costs those who decode at a worker, each class of them, that steps take as long as the second or
    the third of `times_s` and not the first."""
    placed, prompt_harm, output_harm = 0.0, 0.0, 0.0
    for line in range(len(classes)):
        placed += lately[line]
    for line in range(len(classes)):
        limit_s, there = classes[line, 0], lately[line] + (UNKNOWN if line == newcomer else 0.0)
        if sequences * there > 0.0:
            cost = there * sequences / (placed + UNKNOWN) * classes[line, 1]
            now = _chance(times_s[0], limit_s, steepness)
            prompt_harm += (_chance(times_s[1], limit_s, steepness) - now) * cost
            output_harm += (_chance(times_s[2], limit_s, steepness) - now) * cost
    return prompt_harm, output_harm


@compiled
def _chance(predicted_s: float, limit_s: float, steepness: float) -> float:
    """How likely a prediction exceeds its limit; the surer it is, the steeper. A limit that has passed is missed."""
    return 0.5 + 0.5 * math.tanh(steepness - steepness * limit_s / (predicted_s + TINY_S))


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


def _crowding(left_blocks: FloatColumn, blocks: FloatColumn | IntColumn) -> FloatColumn:
    """0 where a tenth of the KV pool is left, 1 where nothing is, at most 2."""
    crowding: FloatColumn = np.minimum(np.maximum(1.0 - left_blocks / (blocks * MEMORY_MARGIN + 1.0), 0.0), 2.0)
    return crowding
