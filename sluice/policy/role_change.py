"""When a worker should take on more than its role: a prefill worker decodes too where decode workers are too few.

Only prefill workers are asked: a decode worker computes prompts anyway when that costs less than a handoff
(`joint.py`), a prefill worker may not decode before it is mixed. Back to one role is a person's or the
operator's choice: a mixed worker loses nothing by being able to do both. Pure. Next: `restraint.py`, which
has the wish last a while, and one worker change at a time.
"""

from typing import Final

import numpy as np

from sluice.domain.role import Role
from sluice.policy.fleet_table import DECODE_BIT, PREFILL_BIT, FleetTable, FloatColumn
from sluice.policy.policy import Flip
from sluice.policy.worth import Steps

MISSED_MIN: Final = 0.2
"""Share of the decoding sequences expected to miss, or of a KV pool's last tenth used, before roles change."""

BUSY_MAX: Final = 0.7
"""Share of their time that the prefill workers left may spend on prompts."""


def wished_flip(fleet: FleetTable, steps: Steps, *, missed: FloatColumn, prompt_share: FloatColumn) -> list[Flip]:
    """The least busy prefill worker becomes mixed where decoding misses and the others carry its prompts; else ()."""
    rows = fleet.rows
    ready = fleet.is_ready[:rows] > 0
    prefill = (ready & (fleet.role_bits[:rows] == PREFILL_BIT)).nonzero()[0]
    decode = (ready & (fleet.role_bits[:rows] & DECODE_BIT > 0)).nonzero()[0]
    if len(prefill) < 2 or not len(decode):
        return []
    there = float(steps.sequences[decode].sum())
    late = float(missed[decode].sum()) / max(1.0, there)
    if max(late, float(steps.crowding[decode].min())) < MISSED_MIN:
        return []
    if float(prompt_share[prefill].sum()) > BUSY_MAX * (len(prefill) - 1):
        return []
    slot = int(prefill[np.argmin(prompt_share[prefill])])
    why = f"{late:.0%} of those who decode miss, and prompts take {float(prompt_share[prefill].mean()):.0%} of the time"
    return [Flip(slot=slot, role=Role.MIXED, why=why)]
