"""One simulated router: production's dispatcher and fleet service, ticking in virtual time.

The counterpart of `router/process.py` without HTTP: clients call the dispatcher as its HTTP
handlers do. Next: `clients.py`.
"""

import asyncio
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sluice.clock import Clock
from sluice.domain.ids import RouterId
from sluice.policy.admission import AdmissionLimits
from sluice.policy.policy import Policy
from sluice.router.dispatch_limits import DispatchLimits
from sluice.router.dispatcher import Dispatcher
from sluice.router.fleet import Fleet
from sluice.router.fleet_service import FleetService
from sluice.router.observer import Observer
from sluice.router.tending import TEND_S
from sluice.telemetry.metrics import RouterMetrics
from sluice.testing.simulation.network import FLEET, Network
from sluice.testing.simulation.virtual_loop import Process
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.text import tokenizer as tokenizers

HEARTBEAT_S: Final = 1.0
EXPIRY_S: Final = 5.0
TICK_S: Final = 0.25
QUEUE_TIMEOUT_S: Final = 30.0
METRICS: Final = RouterMetrics(queue_requests_max=1024)  # one for all: nobody reads them here


@functools.cache
def tokenizer() -> tokenizers.Tokenizer:
    """A small byte-level tokenizer, made once."""
    with tempfile.TemporaryDirectory() as directory:
        return tokenizers.load(make_model_directory(Path(directory)))


class SimRouter:
    """One incarnation."""

    def __init__(
        self, network: Network, *, process: Process, address: str, router: RouterId, clock: Clock, policy: Policy
    ) -> None:
        self.process = process
        self._clock = clock
        limits = DispatchLimits(
            admission=AdmissionLimits(
                queue_sequences_max=64, queue_tokens_max=10**6, inflight_sequences_max=256,
                queue_timeout_s=QUEUE_TIMEOUT_S,
            ),
            attempts_max=6,
            unread_tokens_max=4096,
            records_max=100,
        )  # fmt: skip
        self.dispatcher = Dispatcher(
            router=router,
            tokenizer=tokenizer(),
            fleet=Fleet(expiry_s=EXPIRY_S),
            policy=policy,
            limits=limits,
            observer=Observer(METRICS, model="toy"),
            clock=clock,
        )
        network.listen(address, FLEET, process, FleetService(self.dispatcher, router=router, heartbeat_s=HEARTBEAT_S))

    async def run(self) -> None:
        """Tick and tend until killed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._every(TICK_S, self.dispatcher.tick), name="router tick")
            tasks.create_task(self._every(TEND_S, self.dispatcher.tend), name="router tend")

    async def _every(self, seconds: float, act: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(seconds)
            act()

    def now_s(self) -> float:
        """This process's clock."""
        return self._clock.now_s()

    def leftovers(self) -> list[str]:
        """What this router still has in flight."""
        found = {
            "sequences": self.dispatcher.sequences,
            "waiting": self.dispatcher.waiting,
            "sequences on workers": sum(len(member.sequences) for member in self.dispatcher.fleet),
        }
        return [f"{self.process.name}: {number} {what}" for what, number in found.items() if number]
