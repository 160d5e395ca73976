"""What a client was promised: times to tokens, and how much a broken promise matters."""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Urgency(IntEnum):
    """Who goes first when not all can: a lower number is served before a higher one."""

    INTERACTIVE = 0
    STANDARD = 1
    BATCH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SloClass:
    """One class of requests and its objectives.

    The first token is due `ttft_s` after the router accepted the request; token i after the first
    is due `ttft_s + i * tpot_s` (the per-token deadline of PolyServe, arXiv 2507.17769).
    """

    name: str
    urgency: Urgency
    ttft_s: float
    tpot_s: float
    miss_cost: float = 1.0  # of one missed request, relative to the other classes
    give_up_s: float = math.inf  # a first token predicted later than this is refused at once
    refuse_above: float = math.inf  # refused at once if serving it is expected to cost this many misses such as its own

    def due(self, *, waited_s: float, tokens: int = 0) -> "Due":
        """For the worker of a sequence that was accepted `waited_s` ago and has `tokens` output tokens."""
        return Due(first_in_s=self.ttft_s + tokens * self.tpot_s - waited_s, tpot_s=self.tpot_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """The same promise as the worker of one sequence is told it: no names, no clock but its own."""

    first_in_s: float = 0.0  # from now until the next token is due, the first it gives; below 0 it is late
    tpot_s: float = math.inf  # from one token to the next; infinite where nothing was promised


WHENEVER: Final = Due()
"""Nothing was promised: as soon as what came before is done."""

INTERACTIVE: Final = SloClass(name="interactive", urgency=Urgency.INTERACTIVE, ttft_s=1.0, tpot_s=0.1)
STANDARD: Final = SloClass(name="standard", urgency=Urgency.STANDARD, ttft_s=5.0, tpot_s=0.2, miss_cost=0.5)
BATCH: Final = SloClass(name="batch", urgency=Urgency.BATCH, ttft_s=600.0, tpot_s=10.0, miss_cost=0.1)
