"""How long bytes take from one GPU to another: a latency and a speed, fitted to measured messages.

Pure. Next: `importers/messages.py`, which reads published measurements; `kv_transfer/paced_transport.py`
makes emulated workers keep to such a link.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sluice.capacity.curve_fit import nonnegative_least_squares
from sluice.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferCurve:
    """Seconds of one message over one link."""

    latency_s: float
    bytes_per_s: float
    error: float = 0.0  # standard deviation of (measured / predicted - 1) where it was fitted

    def seconds(self, size_bytes: float) -> float:
        """One message of `size_bytes`."""
        return self.latency_s + size_bytes / self.bytes_per_s


def fit_messages(messages: Sequence[tuple[float, float]]) -> TransferCurve:
    """The curve nearest to (bytes, seconds) pairs, in relative error. Raises ConfigError where they name no link."""
    if len(messages) < 2 or any(seconds <= 0.0 or size < 0.0 for size, seconds in messages):
        raise ConfigError("messages: give at least two, each with a size and the time it took")
    sizes, seconds = (np.array(column) for column in zip(*messages, strict=True))
    rows = np.stack([np.ones_like(sizes), sizes], axis=1) / seconds[:, None]
    latency_s, byte_s = (float(each) for each in nonnegative_least_squares(rows, np.ones(len(sizes))))
    if byte_s <= 0.0:
        raise ConfigError("messages: bigger ones take no longer; give sizes of more than a few kilobytes")
    predicted = latency_s + sizes * byte_s
    error = float(np.sqrt(np.mean((seconds / predicted - 1.0) ** 2)))
    return TransferCurve(latency_s=latency_s, bytes_per_s=1.0 / byte_s, error=error)
