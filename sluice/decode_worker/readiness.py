"""How long whoever asks for room waits until the engine is ready for the sequence that will come.

The asker decodes on, or computes the prompt: it can wait. Later, when the sequence stands still between two
workers, its client could not. Never decides what has to be made ready: the engine does, on a thread of its own
(`engine/ready_memory.py`). Next: `arrivals.py`, which answers then.
"""

import asyncio
from typing import Final

from sluice.engine.contract import Reservation

LOOK_S: Final = 0.01
LOOKS_MAX: Final = 700
"""Seven seconds: less than senders wait for an answer."""


async def wait_ready(reservation: Reservation) -> None:
    """Return when the engine is ready for it, or after LOOKS_MAX looks."""
    for _ in range(LOOKS_MAX):
        if reservation.is_ready():
            return
        await asyncio.sleep(LOOK_S)
