"""Counts every block of the pool by who holds it. Pure; asked for heartbeats and by tests.

A block that several sequences share counts once, for the strongest claim: reserved, held, active.
"""

from sluice.engine.contract import BlockCounts
from sluice.engine.handover import Handover
from sluice.engine.scheduler import Scheduler
from sluice.engine.sequence import Phase


def count_blocks(scheduler: Scheduler, handover: Handover) -> BlockCounts:
    """Blocks by state; they add up to the total."""
    reserved = {block for table in handover.block_tables for block in table}
    held: set[int] = set()
    active: set[int] = set()
    for sequence in scheduler.sequences:
        (held if sequence.phase is Phase.HELD else active).update(sequence.blocks)
    held -= reserved
    active -= reserved | held
    return BlockCounts(
        total=scheduler.pool.blocks,
        free=scheduler.pool.free_blocks,
        cached=scheduler.pool.idle_blocks,
        active=len(active),
        held=len(held),
        reserved=len(reserved),
    )
