"""Decides how long a push may take before its link, or its peer, counts as failed.

A floor for what is not bytes, plus the time the slowest link we put up with needs. The tcp backend
breaks its link at the deadline; one-sided backends never end a push by themselves, so whoever
waits for one abandons it then. Pure. Next: `mover.py`, `tcp_link.py`.
"""

from typing import Final

FLOOR_S: Final = 2.0
RATE_BYTES_PER_S_MIN: Final = 20e6


def deadline_s(total_bytes: int) -> float:
    """Seconds that moving `total_bytes` may take, those queued before them on the same link included."""
    return FLOOR_S + total_bytes / RATE_BYTES_PER_S_MIN
