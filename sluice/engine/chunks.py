"""How much of prompts the next step computes, and which part of whose. No blocks, no order: those are `scheduler.py`'s.

Next: `capacity/step_budget.py` for the sum behind it.
"""

import math
from collections.abc import Sequence

from sluice.capacity.step_budget import PACE, allowed_s, tokens_within
from sluice.capacity.step_curve import StepCurve
from sluice.engine.sequence import LiveSequence, Phase
from sluice.engine.step_plan import Work


def prompt_tokens(
    running: Sequence[LiveSequence],
    decoding: Sequence[LiveSequence],
    curve: StepCurve | None,
    *,
    now_s: float,
    tokens_max: int,
) -> int:
    """How many of prompts fit beside these decodes: `tokens_max`, or fewer where those were promised their pace.

    `running` is everybody, in order; `curve` how long steps take here, once known.
    """
    allowed = min((_allowed_s(sequence, now_s) for sequence in decoding), default=math.inf)
    if curve is None:
        return tokens_max
    return tokens_within(
        curve,
        allowed,
        decodes=len(decoding),
        context_tokens=sum(sequence.computed + 1 for sequence in decoding),
        prefix_tokens=next((sequence.computed for sequence in running if sequence.phase is Phase.PREFILL), 0),
        tokens_max=tokens_max,
    )


def _allowed_s(sequence: LiveSequence, now_s: float) -> float:
    tpot_s = sequence.accepted.due.tpot_s
    if sequence.paced_from is None:
        sequence.paced_from = (now_s, sequence.output_tokens)
    since_s, outputs = sequence.paced_from
    next_s = since_s + PACE * tpot_s * (sequence.output_tokens - outputs + 1)
    return allowed_s(tpot_s, ahead_s=next_s - now_s)


def take_chunk(sequence: LiveSequence, budget: int, prefills: list[Work]) -> int:
    """Give `sequence` as many tokens as it needs, its images and the budget allow; returns how many."""
    end = min(sequence.computable_end(sequence.computed), sequence.computed + budget)
    if end > sequence.computed:
        prefills.append(Work(sequence, sequence.computed, end))
    return end - sequence.computed
