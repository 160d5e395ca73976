"""The prefix cache finds whole prefixes, evicts what was unused for longest, and says what changed."""

from sluice.domain.ids import BlockHash, BlockId
from sluice.engine.block_pool import BlockPool
from sluice.engine.contract import PrefixChange

ONE, TWO, THREE = (BlockHash(bytes([index]) * 16) for index in range(3))


def pool_with(*hashes: BlockHash, blocks: int = 4) -> tuple[BlockPool, list[BlockId]]:
    """A pool in which a finished sequence left `hashes` behind."""
    pool = BlockPool(blocks)
    table = pool.take(len(hashes))
    for block, block_hash in zip(table, hashes, strict=True):
        pool.publish(block, block_hash)
    pool.drop(table)
    return pool, table


def test_only_a_whole_prefix_is_found() -> None:
    pool, table = pool_with(ONE, TWO)
    assert pool.find([ONE, TWO, THREE]) == table
    assert pool.find([THREE, ONE]) == []


def test_the_end_of_a_prefix_is_evicted_before_its_start() -> None:
    pool, table = pool_with(ONE, TWO, THREE, blocks=3)
    pool.take(1)
    assert pool.find([ONE, TWO, THREE]) == table[:2]


def test_a_prefix_in_use_is_not_evicted() -> None:
    pool, table = pool_with(ONE, TWO, blocks=3)
    pool.share(pool.find([ONE]))
    pool.take(2)
    assert pool.available_blocks == 0
    assert pool.find([ONE, TWO]) == table[:1]


def test_the_prefix_used_last_is_evicted_last() -> None:
    pool, table = pool_with(ONE, blocks=2)
    other = pool.take(1)
    pool.publish(other[0], TWO)
    pool.drop(other)
    pool.share(pool.find([ONE]))
    pool.drop(table)
    pool.take(1)
    assert pool.find([ONE]) == table
    assert pool.find([TWO]) == []


def test_two_blocks_with_the_same_content_are_cached_once() -> None:
    pool, table = pool_with(ONE)
    twin = pool.take(1)
    pool.publish(twin[0], ONE)
    assert pool.drop(twin) == twin, "the twin holds nothing that is not known already"
    assert pool.find([ONE]) == table


def test_what_is_stored_and_removed_between_two_reports_is_not_reported() -> None:
    pool, _ = pool_with(ONE, blocks=1)
    pool.take(1)
    assert pool.take_prefix_change() == PrefixChange()


def test_changes_are_reported_once() -> None:
    pool, table = pool_with(ONE, blocks=1)
    assert pool.take_prefix_change() == PrefixChange(stored=(ONE,))
    assert pool.take_prefix_change() == PrefixChange()
    pool.share(table)
    pool.drop(table)
    pool.take(1)
    assert pool.take_prefix_change() == PrefixChange(removed=(ONE,))


def test_wrong_content_cannot_be_found_again() -> None:
    pool, _ = pool_with()
    table = pool.take(1)
    pool.publish(table[0], ONE)
    pool.unpublish(table)
    assert pool.drop(table) == table
    assert pool.find([ONE]) == []
