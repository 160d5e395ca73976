"""Keeps what each peer's link has done: bytes, seconds, GB/s, failures. Decides nothing.

Telemetry reads snapshots. `seconds` sums push times, from submit to terminal, so overlapping
pushes count twice and `gigabytes_per_s` is what one push experiences. Next: `mover.py`.
"""

import threading
from dataclasses import dataclass, replace

from sluice.domain.ids import BootId, WorkerId
from sluice.kv_transfer.transport import PushResult, PushState


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStats:
    """One peer's link so far."""

    worker: WorkerId
    boot: BootId
    transport: str = ""  # empty until connected
    pushes_done: int = 0
    pushes_failed: int = 0
    bytes_done: int = 0
    seconds: float = 0.0
    gigabytes_per_s: float = 0.0  # of recent pushes, smoothed
    last_error: str = ""


class LinkStats:
    """Stats by incarnation. Callable from any thread."""

    SMOOTHING = 0.2

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._peers: dict[BootId, PeerStats] = {}

    def snapshot(self) -> tuple[PeerStats, ...]:
        """Every known peer's stats now."""
        with self._lock:
            return tuple(self._peers.values())

    def connected(self, *, worker: WorkerId, boot: BootId, transport: str) -> None:
        with self._lock:
            known = self._peers.get(boot) or PeerStats(worker=worker, boot=boot)
            self._peers[boot] = replace(known, transport=transport)

    def forgotten(self, boot: BootId) -> None:
        with self._lock:
            self._peers.pop(boot, None)

    def link_failed(self, boot: BootId, *, reason: str) -> None:
        with self._lock:
            if boot in self._peers:
                self._peers[boot] = replace(self._peers[boot], last_error=reason)

    def push_ended(self, boot: BootId, result: PushResult, *, total_bytes: int) -> None:
        """Count a terminal push."""
        with self._lock:
            known = self._peers.get(boot)
            if known is None:
                return
            if result.state is PushState.FAILED:
                known = replace(known, pushes_failed=known.pushes_failed + 1, last_error=result.reason)
            else:
                rate = total_bytes / max(result.seconds, 1e-9) / 1e9
                weight = self.SMOOTHING if known.pushes_done else 1.0
                known = replace(
                    known,
                    pushes_done=known.pushes_done + 1,
                    bytes_done=known.bytes_done + total_bytes,
                    seconds=known.seconds + result.seconds,
                    gigabytes_per_s=known.gigabytes_per_s * (1 - weight) + rate * weight,
                )
            self._peers[boot] = known
