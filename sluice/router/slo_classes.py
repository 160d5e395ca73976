"""Which objectives a request has: its class, by the name a client gives, as the settings define it.

OpenAI's service tiers are names of classes too. Reads settings once. Next: `intake.py`.
"""

import math
from collections.abc import Mapping

from sluice.config.router import ClassConfig, SloConfig
from sluice.domain.slo import SloClass, Urgency
from sluice.errors import InvalidRequestError

_SAME = {"auto": "standard", "default": "standard", "": "standard", "priority": "interactive", "flex": "batch"}


class SloClasses:
    """The classes of one router."""

    def __init__(self, config: SloConfig) -> None:
        self._classes: Mapping[str, SloClass] = {
            urgency.name.lower(): _made(urgency, config_of_class)
            for urgency, config_of_class in (
                (Urgency.INTERACTIVE, config.interactive),
                (Urgency.STANDARD, config),
                (Urgency.BATCH, config.batch),
            )
        }

    def named(self, name: str) -> SloClass:
        """The class of this name or tier; "" is standard. Raises InvalidRequestError."""
        found = self._classes.get(_SAME.get(name, name))
        if found is None:
            known = ", ".join([*self._classes, *(tier for tier in _SAME if tier)])
            raise InvalidRequestError(field="service_tier", problem=f"is '{name[:64]}'", remedy=f"use one of {known}")
        return found


def _made(urgency: Urgency, config: SloConfig | ClassConfig) -> SloClass:
    return SloClass(
        name=urgency.name.lower(),
        urgency=urgency,
        ttft_s=config.ttft_s,
        tpot_s=config.tpot_s,
        miss_cost=config.miss_cost,
        give_up_s=config.give_up_s or math.inf,
        refuse_above=config.refuse_above or math.inf,
    )
