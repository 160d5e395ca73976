"""The index knows who holds which prefix, forgets on request, and stays within bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.block_hash import HASH_UNIT_TOKENS, extend_chain, root_hash
from sluice.domain.ids import BlockHash
from sluice.policy.prefix_index import PrefixIndex

ROOT = root_hash(model_fingerprint="m", salt="")


def chain(units: int, seed: int = 0) -> list[BlockHash]:
    return extend_chain(ROOT, [seed] * units * HASH_UNIT_TOKENS)


def index_of(*block_units: int) -> PrefixIndex:
    index = PrefixIndex()
    for slot, units in enumerate(block_units):
        index.add_worker(slot, block_tokens=units * HASH_UNIT_TOKENS)
    return index


@given(held=st.lists(st.integers(0, 100), min_size=1, max_size=6), length=st.integers(0, 100))
def test_the_longest_held_prefix_is_found_for_every_worker(held: list[int], length: int) -> None:
    index, hashes = index_of(*[1] * len(held)), chain(100)
    for slot, units in enumerate(held):
        index.stored(slot, hashes[:units])
    want = {slot: min(units, length) * HASH_UNIT_TOKENS for slot, units in enumerate(held)}
    assert index.match(hashes[:length]) == {slot: tokens for slot, tokens in want.items() if tokens}


def test_each_workers_own_block_size_counts() -> None:
    index, hashes = index_of(1, 2, 4), chain(7)
    for slot, step in enumerate((1, 2, 4)):
        index.stored(slot, hashes[step - 1 :: step])
    assert index.match(hashes) == {0: 7 * 16, 1: 6 * 16, 2: 4 * 16}


def test_an_evicted_block_shortens_the_match() -> None:
    index, hashes = index_of(1), chain(5)
    index.stored(0, hashes)
    index.removed(0, hashes[3:])
    assert index.match(hashes) == {0: 3 * 16}


def test_a_sent_prompt_is_expected_where_it_was_sent_until_it_lapses() -> None:
    index, hashes = index_of(1, 2), chain(4)
    index.expect(1, hashes, now_s=0.0)
    assert index.match(hashes) == {1: 4 * 16}
    index.expire(now_s=1e6)
    assert index.match(hashes) == {}
    assert len(index) == 0


def test_a_confirmed_expectation_does_not_lapse() -> None:
    index, hashes = index_of(1), chain(4)
    index.expect(0, hashes, now_s=0.0)
    index.stored(0, hashes[:2])
    index.expire(now_s=1e6)
    assert index.match(hashes) == {0: 2 * 16}


@pytest.mark.parametrize("forget", [PrefixIndex.reset, PrefixIndex.remove_worker])
def test_a_worker_that_starts_over_or_leaves_is_forgotten(forget: object) -> None:
    index, hashes = index_of(1, 1), chain(4)
    index.stored(0, hashes)
    index.stored(1, hashes[:1])
    index.expect(0, chain(4, seed=9), now_s=0.0)
    forget(index, 0)
    assert index.match(hashes) == {1: 16}
    assert index.match(chain(4, seed=9)) == {}
    assert len(index) == 1


def test_a_full_index_drops_its_oldest_entries() -> None:
    index = PrefixIndex(entries_max=10)
    index.add_worker(0, block_tokens=16)
    old, new = chain(8, seed=1), chain(8, seed=2)
    index.stored(0, old)
    index.expect(0, new, now_s=0.0)
    assert len(index) == 10
    assert index.match(new) == {0: 8 * 16}
    assert index.match(old) == {}


def test_two_tenants_share_nothing() -> None:
    index = index_of(1)
    index.stored(0, chain(4))
    other = extend_chain(root_hash(model_fingerprint="m", salt="tenant"), [0] * 64)
    assert index.match(other) == {}
