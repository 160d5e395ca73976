"""Which workers may serve a sequence at all: hard limits only, for all rows at once.

A worker must be ready, untried, large enough for the sequence and not full. Preferences are the
policies' business. Whatever roles are connected, a sequence fits somewhere if any worker can
take it: without prefill workers the decode workers do all, and the other way round.
Pure. Next: `pairing.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from sluice.policy.compiled import compiled
from sluice.policy.fleet_table import DECODE_BIT, PREFILL_BIT, FleetTable, FloatColumn, IntColumn
from sluice.policy.policy import Ask, Unplaced

BATCHES_MAX: Final = 2
"""A worker holds at most one batch beyond the one it runs: the rest queues at the router."""

NONE: Final = np.zeros(0, dtype=np.int64)
TOO_LONG: Final = "too small for it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Slots by what they may do for one sequence; the arrays are ascending.

    One of `prefill` goes with one of `decode`, and the same slot in both may do all. Where
    `prefill` is empty, one of `decode` does all whatever its role.
    """

    prefill: IntColumn
    decode: IntColumn


def fit(ask: Ask, fleet: FleetTable) -> Fit | Unplaced:
    """Who may serve `ask`, or why nobody may."""
    tokens = ask.prompt_tokens + ask.output_tokens_max
    may = _who_may(
        fleet.rows,
        tokens,
        fleet.is_ready,
        fleet.waiting,
        fleet.running,
        fleet.batch_sequences_max,
        fleet.sequence_tokens_max,
        fleet.role_bits,
    )
    for slot in ask.excluded:
        if slot < fleet.rows:
            may[slot] = 0
    prefill, decode = _with(may, PREFILL_BIT), _with(may, DECODE_BIT)
    if ask.resident is not None:
        prefill, decode = np.array([ask.resident]), decode[decode != ask.resident]
        decode = _reached(fleet, prefill, decode)
    elif not len(prefill):
        prefill = NONE
    elif not len(decode) or ask.output_tokens_max == 1:
        prefill, decode = NONE, prefill
    elif fleet.severed:
        reached = _reached(fleet, prefill, decode)
        prefill, decode = (prefill, reached) if len(reached) else (NONE, decode)
    return Fit(prefill=prefill, decode=decode) if len(decode) else _nobody(ask, fleet)


@compiled
def _who_may(  # noqa: PLR0917 - columns, all of which count
    rows: int,
    tokens: int,
    is_ready: IntColumn,
    waiting: IntColumn,
    running: IntColumn,
    batch_sequences_max: IntColumn,
    sequence_tokens_max: IntColumn,
    role_bits: IntColumn,
) -> IntColumn:
    """The roles of those who may serve a sequence of so many tokens; 0 for the others."""
    may = np.zeros(rows, dtype=np.int64)
    for at in range(rows):
        is_full = waiting[at] + running[at] >= BATCHES_MAX * batch_sequences_max[at]
        if is_ready[at] > 0 and not is_full and sequence_tokens_max[at] >= tokens:
            may[at] = role_bits[at]
    return may


@compiled
def _with(roles: IntColumn, bit: int) -> IntColumn:
    """The slots that have it, ascending."""
    slots, count = np.empty(len(roles), dtype=np.int64), 0
    for at, role in enumerate(roles):
        if role & bit:
            slots[count] = at
            count += 1
    return slots[:count]


def _reached(fleet: FleetTable, prefill: IntColumn, decode: IntColumn) -> IntColumn:
    """Those of `decode` that somebody of `prefill` can hand off to."""
    if not fleet.severed:
        return decode
    return decode[[any(fleet.can_send(source, target) for source in prefill.tolist()) for target in decode.tolist()]]


def cached_column(slots: IntColumn, cached_tokens: Mapping[int, int], ask: Ask) -> FloatColumn:
    """Prompt tokens each of `slots` has cached, never more than all but one: the last is always computed."""
    column = np.zeros(len(slots))
    if cached_tokens:
        most = ask.prompt_tokens - 1
        for slot, tokens in cached_tokens.items():
            at = slots.searchsorted(slot)
            if at < len(slots) and slots[at] == slot:
                column[at] = min(tokens, most)
    return column


def _nobody(ask: Ask, fleet: FleetTable) -> Unplaced:
    """How many workers were left out for which reason; final where every worker is too small."""
    counts: dict[str, int] = {}
    for slot, worker in enumerate(fleet.workers):
        if worker:
            reason = why_not(ask, fleet, slot)
            counts[reason] = counts.get(reason, 0) + 1
    if not counts:
        return Unplaced(reason="no worker is connected")
    reason = ", ".join(f"{count} {why}" for why, count in sorted(counts.items()))
    if set(counts) == {TOO_LONG}:
        return Unplaced(reason=reason, is_final=True, retry_after_s=0.0)
    return Unplaced(reason=reason)


def why_not(ask: Ask, fleet: FleetTable, slot: int) -> str:
    """The first reason against one worker; for people, after the fact."""
    if not fleet.is_ready[slot]:
        return "not ready"
    if slot in ask.excluded:
        return "tried before"
    if fleet.sequence_tokens_max[slot] < ask.prompt_tokens + ask.output_tokens_max:
        return TOO_LONG
    if fleet.waiting[slot] + fleet.running[slot] >= BATCHES_MAX * fleet.batch_sequences_max[slot]:
        return "full"
    return "of another role"
