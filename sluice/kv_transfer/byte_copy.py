"""Copies descriptor ranges from one mapped buffer into another: the memcpy of inproc and shm.

Small pieces are copied without letting go of the interpreter lock, others with it released: the
engine's thread goes on meanwhile. Getting it back from a busy thread can take a whole switch interval,
far longer than a small copy. Checks nothing: callers have. Next: `shm_transport.py`.
"""

import ctypes
from typing import Final

import numpy as np

from sluice.kv_transfer.transport import Descriptors

RELEASING_BYTES_MIN: Final = 16 << 10


def address_of(view: memoryview) -> int:
    """Where a writable view's first byte is in this process."""
    return int(np.frombuffer(view, dtype=np.uint8).ctypes.data)


def copy_ranges(source: memoryview, target: memoryview, ranges: Descriptors) -> None:
    """Copy every range of `source` to its place in `target`; all must lie inside the buffers."""
    froms, tos, lengths = ranges.source.tolist(), ranges.target.tolist(), ranges.length.tolist()
    from_address, to_address = address_of(source), address_of(target)
    for start, to, length in zip(froms, tos, lengths, strict=True):
        if length < RELEASING_BYTES_MIN:
            target[to : to + length] = source[start : start + length]
        else:
            ctypes.memmove(to_address + to, from_address + start, length)


def is_inside(ranges: Descriptors, *, source_bytes: int, target_bytes: int) -> bool:
    """Whether all ranges lie inside regions of these sizes."""
    if len(ranges) == 0:
        return True
    if int(ranges.length.min()) <= 0 or min(int(ranges.source.min()), int(ranges.target.min())) < 0:
        return False
    from_room = source_bytes - ranges.source  # by subtraction: a sum might overflow
    to_room = target_bytes - ranges.target
    return bool(np.all(ranges.length <= np.minimum(from_room, to_room)))
