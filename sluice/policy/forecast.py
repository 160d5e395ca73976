"""Predicted times to first token and between tokens, for many workers at once.

The form every published predictor shares (DistServe, OSDI 2024; Llumnix v1; xLLM): prefill is
quadratic in tokens, a decode step is linear in sequences and context; a chunk of a prompt shares its
step with the sequences that decode there. What was placed and is not yet reported is already in
the table. Pure. Next: `joint.py`; `llm_d.py` for the simplest user.
"""

import numpy as np

from sluice.policy.fleet_table import FleetTable, FloatColumn, IntColumn
from sluice.policy.policy import Ask

Rows = IntColumn | slice
"""Which workers: their slots, or a range of slots, which is faster."""


def decodes(fleet: FleetTable, rows: Rows) -> FloatColumn:
    """Sequences that decode there now: those that run, unless nothing has context yet (a prefill worker)."""
    return np.where(fleet.context_tokens[rows] > 0, fleet.running[rows], 0.0)


def decode_step_s(
    fleet: FleetTable, rows: Rows, *, sequences: FloatColumn | float, context_tokens: FloatColumn | float
) -> FloatColumn:
    """One step that only decodes."""
    step_s: FloatColumn = (
        fleet.base_s[rows] + fleet.decode_s[rows] * sequences + fleet.context_token_s[rows] * context_tokens
    )
    return step_s


def queue_s(fleet: FleetTable, rows: Rows) -> FloatColumn:
    """Until the prompts that wait there are computed."""
    nothing = np.zeros(())
    return _prompts_s(fleet, rows, tokens=nothing, pairs=nothing)


def ttft_s(fleet: FleetTable, rows: Rows, ask: Ask, cached: FloatColumn) -> FloatColumn:
    """From now to the first token, if the prompt is computed there; `cached` tokens of it are there already."""
    tokens = ask.prompt_tokens - cached
    return _prompts_s(fleet, rows, tokens=tokens, pairs=own_pairs(ask, cached))


def own_pairs(ask: Ask, cached: FloatColumn) -> FloatColumn:
    """Query-key pairs of what is not cached of the prompt."""
    tokens = ask.prompt_tokens - cached
    pairs: FloatColumn = tokens * (cached + 0.5 * (tokens + 1.0))
    return pairs


def tpot_s(fleet: FleetTable, rows: Rows, ask: Ask) -> FloatColumn:
    """Mean time between its tokens if it decodes there with all that is there now."""
    sequences: FloatColumn = (fleet.running[rows] + fleet.waiting[rows]).astype(np.float64) + 1.0
    context: FloatColumn = fleet.context_tokens[rows] + np.float64(ask.prompt_tokens + 0.5 * ask.output_tokens_expected)
    stall_s = queue_s(fleet, rows) / max(1.0, ask.output_tokens_expected)
    return decode_step_s(fleet, rows, sequences=sequences, context_tokens=context) + stall_s


def tpot_now_s(fleet: FleetTable, rows: Rows) -> FloatColumn:
    """One decode step of what runs there; 0 where nothing does."""
    running = decodes(fleet, rows)
    step_s = decode_step_s(fleet, rows, sequences=running, context_tokens=fleet.context_tokens[rows].astype(np.float64))
    return np.where(running > 0.0, step_s, 0.0)


def transfer_s(fleet: FleetTable, prefill: Rows, decode: Rows, *, tokens: FloatColumn | float) -> FloatColumn:
    """Moving the KV of `tokens` tokens over the slower of the two links; 0 where speeds are unknown."""
    link = np.minimum(fleet.link_bytes_per_s[prefill], fleet.link_bytes_per_s[decode])
    moved: FloatColumn = tokens * float(fleet.kv_token_bytes) / np.where(link > 0.0, link, np.inf)
    return moved


def _prompts_s(fleet: FleetTable, rows: Rows, *, tokens: FloatColumn, pairs: FloatColumn) -> FloatColumn:
    """All that waits there and `tokens` more, in steps that the decoding sequences share."""
    running = decodes(fleet, rows)
    all_tokens = fleet.queued_tokens[rows] + tokens
    room = np.maximum(1.0, fleet.step_tokens_max[rows] - running)
    steps = np.ceil(all_tokens / room)
    shared_s = decode_step_s(
        fleet, rows, sequences=running, context_tokens=fleet.context_tokens[rows].astype(np.float64)
    )
    total_s: FloatColumn = (
        all_tokens * fleet.prefill_token_s[rows]
        + (fleet.queued_pairs[rows] + pairs) * fleet.pair_s[rows]
        + steps * shared_s
    )
    return total_s
