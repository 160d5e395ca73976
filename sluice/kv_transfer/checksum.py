"""Takes a CRC-32 over the bytes a plan moves, so that both ends can compare a layer group.

A plan's byte order does not depend on block ids: the sender sums the source ranges of its plan,
the receiver the target ranges of the same plan compiled with any block ids for the sender's side
(`receiver_plan`). CRC-32 finds accidents, not enemies; who may write is `grants.py`. About 3 GB/s:
for tests, canaries and samples. Never for device memory. Next: `plan.py`.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from sluice.domain.ids import BlockId
from sluice.domain.kv import KvGeometry
from sluice.kv_transfer.plan import Span, compile_plan
from sluice.kv_transfer.transport import Descriptors


def crc32_of_source(view: memoryview, ranges: Descriptors) -> int:
    """CRC-32 of the bytes `ranges` would read from the region `view`."""
    return _crc32(view, ranges.source, ranges.length)


def crc32_of_target(view: memoryview, ranges: Descriptors) -> int:
    """CRC-32 of the bytes `ranges` have written into the region `view`."""
    return _crc32(view, ranges.target, ranges.length)


def receiver_plan(
    *, source: KvGeometry, target: KvGeometry, group: int, target_blocks: tuple[BlockId, ...], first: int, end: int
) -> Descriptors:
    """The sender's plan as far as a receiver can know it: `target` is right, `source` means nothing."""
    stand_ins = tuple(BlockId(index % source.blocks) for index in range(source.blocks_for(end)))
    span = Span(source_blocks=stand_ins, target_blocks=target_blocks, first=first, end=end)
    return compile_plan(source=source, target=target, group=group, span=span)


def _crc32(view: memoryview, offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> int:
    crc = 0
    for start, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
        crc = zlib.crc32(view[start : start + length], crc)
    return crc
