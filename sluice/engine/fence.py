"""When is KV written on a device readable by others? On the CPU at once, on CUDA after an event.

Next: `engine.py` makes them, `worker/` waits for them before it pushes bytes.
"""

from dataclasses import dataclass

import torch

from sluice.engine.contract import Fence


@dataclass(frozen=True, slots=True)
class NoFence:
    """Work on the CPU has finished when the call that did it returned."""

    def wait(self) -> None:
        """Return at once."""


@dataclass(frozen=True, slots=True)
class CudaFence:
    """An event recorded on the engine's stream."""

    event: torch.cuda.Event

    def wait(self) -> None:
        """Block until the event has happened on the device; safe from any thread."""
        self.event.synchronize()


def fence_on(device: torch.device) -> Fence:
    """A fence after all work queued on the current stream of `device`."""
    if device.type == "cpu":
        return NoFence()
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch is partly typed
    event.record(torch.cuda.current_stream(device))
    return CudaFence(event)
