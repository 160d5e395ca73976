"""The engine of the simulation: production's, over the emulated model in toy size.

Reads every KV it decodes over and says at once when one is not what the sequence's tokens make it
(`on_wrong_kv`), and likewise every embedding. A step takes no time here: `virtual_steps.py` gives it some.
Next: `toy_model.py`.
"""

from collections.abc import Callable

from sluice.clock import Clock
from sluice.domain.kv import KvGeometry
from sluice.engine.contract import EngineLimits
from sluice.engine.emulated_runner import EmulatedRunner
from sluice.engine.engine import PagedEngine
from sluice.engine.pace import NoPace
from sluice.testing.simulation import toy_model
from sluice.testing.simulation.toy_sight import SeeingRunner


def toy_engine(
    geometry: KvGeometry,
    limits: EngineLimits,
    memory: memoryview,
    *,
    clock: Clock,
    on_wrong_kv: Callable[[str], None],
) -> PagedEngine:
    """One toy model on one pool. `memory` is its KV region, to be written by others' pushes."""
    runner = EmulatedRunner(
        toy_model.FACTS,
        geometry,
        memory,
        rule=toy_model.RULE,
        pace=NoPace(),
        reads_all=True,
        on_wrong_kv=on_wrong_kv,
    )
    return PagedEngine(SeeingRunner(runner, on_wrong_kv), geometry=geometry, limits=limits, clock=clock)
