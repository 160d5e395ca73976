"""Objectives as a person types them: `ttft=1,tpot=0.05,itl=0.2`, in seconds. Next: `simulate.py`."""

from typing import Final

from sluice.domain.slo import SloClass, Urgency
from sluice.errors import ConfigError
from sluice.simulator.run_options import Objective

DEFAULTS: Final = {"ttft": 1.0, "tpot": 0.05, "itl": 0.2}


def parse_objective(text: str) -> Objective:
    """The objective in `text`, defaults for what it leaves out. Raises ConfigError naming the wrong part."""
    values = dict(DEFAULTS)
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition("=")
        if name not in DEFAULTS:
            raise ConfigError(f"--slo: '{part}' is unknown; use some of ttft=1,tpot=0.05,itl=0.2 (seconds)")
        try:
            values[name] = float(number)
        except ValueError as error:
            raise ConfigError(f"--slo: '{part}' has no number of seconds; write {name}=0.5") from error
        if values[name] <= 0.0:
            raise ConfigError(f"--slo: '{part}' is not above 0; write {name}=0.5")
    slo = SloClass(name="all", urgency=Urgency.STANDARD, ttft_s=values["ttft"], tpot_s=values["tpot"])
    return Objective(slo=slo, itl_s=values["itl"])
