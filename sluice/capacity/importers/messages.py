"""Published times of messages between two GPUs: APEX's `sendrecv.csv` and Vidur's `send_recv.csv` (both MIT).

Reads sizes and times, nothing else. Next: `../transfer_curve.py`.
"""

from pathlib import Path
from typing import Final

from sluice.capacity.importers.rows import read_rows
from sluice.errors import ConfigError

KIB: Final = 1024
MICROSECOND: Final = 1e-6
MILLISECOND: Final = 1e-3

Messages = list[tuple[float, float]]  # bytes, seconds


def read_apex(path: Path, *, nodes: int = 1) -> Messages:
    """Half-precision messages within one node, or between `nodes`. Raises ConfigError if there are none."""
    found = [
        (row.number("size(kb)") * KIB, row.number("time(us)") * MICROSECOND)
        for row in read_rows(path)
        if row.integer("num_nodes") == nodes and row.text("dtype") == "half"
    ]
    if not found:
        raise ConfigError(f"{path}: has no messages over {nodes} nodes")
    return found


def read_vidur(path: Path, *, devices_per_node: int) -> Messages:
    """Medians between two GPUs: in one node with 2 devices a node, between nodes with 1. Raises ConfigError if none."""
    found = [
        (row.number("size"), row.number("time_stats.send_recv.median") * MILLISECOND)
        for row in read_rows(path)
        if row.integer("devices_per_node") == devices_per_node
    ]
    if not found:
        raise ConfigError(f"{path}: has no messages with {devices_per_node} devices a node; it has 1 or 2")
    return found
