"""Objectives as a person types them: `ttft=1s,tpot=50ms`; a number without a unit is seconds.

Next: `simulate.py`, `plan.py`.
"""

import re
from typing import Final

from sluice.domain.slo import SloClass, Urgency
from sluice.errors import ConfigError
from sluice.simulator.run_options import Objective

DEFAULTS: Final = {"ttft": 1.0, "tpot": 0.05, "itl": 0.2}
UNITS: Final = {"": 1.0, "s": 1.0, "ms": 1e-3}
SECONDS_MAX: Final = 3600.0


def parse_objective(text: str) -> Objective:
    """The objective in `text`, defaults for what it leaves out. Raises ConfigError naming the wrong part."""
    values = dict(DEFAULTS)
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        if name not in DEFAULTS:
            raise ConfigError(f"--slo: '{part}' is unknown; use some of ttft=1s,tpot=50ms,itl=200ms")
        found = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)(s|ms|)", value)
        if found is None:
            raise ConfigError(f"--slo: '{part}' is no time; write {name}=0.5 or {name}=500ms")
        values[name] = float(found[1]) * UNITS[found[2]]
        if not 0.0 < values[name] <= SECONDS_MAX:
            raise ConfigError(f"--slo: '{part}' is not above 0 and up to {SECONDS_MAX:.0f} s; write {name}=0.5")
    slo = SloClass(name="all", urgency=Urgency.STANDARD, ttft_s=values["ttft"], tpot_s=values["tpot"])
    return Objective(slo=slo, itl_s=values["itl"])
