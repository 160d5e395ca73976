"""How often a running sequence is copied before it is frozen, and how a copy rests."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.decode_worker import precopy
from sluice.decode_worker.precopy import Choice, Round

BLOCK = 16


def after(**changed: int) -> Choice:
    values = {"number": 1, "computed": 1000, "copied": 0, "block_tokens": BLOCK, "room_tokens": 1256, "rounds_max": 8}
    return precopy.after(Round(**(values | changed)))


def test_it_copies_again_while_more_than_a_block_is_left() -> None:
    assert after() is Choice.COPY_AGAIN
    assert after(copied=1000 - BLOCK - 1) is Choice.COPY_AGAIN
    assert after(copied=1000 - BLOCK) is Choice.FREEZE


def test_it_freezes_when_rounds_or_room_run_out() -> None:
    assert after(number=8) is Choice.COPY_AGAIN
    assert after(number=9) is Choice.FREEZE
    assert after(number=1, rounds_max=0) is Choice.FREEZE
    assert after(room_tokens=1000 + 2 * BLOCK) is Choice.FREEZE


@given(first=st.integers(0, 5000), more=st.integers(0, 5000), piece=st.integers(1, 6000))
def test_pieces_are_in_order_no_larger_than_asked_and_end_at_the_end(first: int, more: int, piece: int) -> None:
    ends = list(precopy.pieces(first=first, end=first + more, piece_tokens=piece))
    assert ends[-1] == first + more
    assert all(0 < after - before <= piece for before, after in itertools.pairwise([first, *ends])) or not more
    assert len(ends) == max(1, -(-more // piece))


def test_a_copy_works_its_share_of_the_time() -> None:
    assert sum(precopy.rests(0.01, share=0.05, left_s=10.0)) == pytest.approx(0.19)
    assert sum(precopy.rests(0.1, share=0.05, left_s=10.0)) == pytest.approx(1.9)
    assert list(precopy.rests(0.01, share=1.0, left_s=10.0)) == []


def test_joining_costs_more_where_keys_are_gathered() -> None:
    assert precopy.joining_s(250_000_000, is_gathered=True) == pytest.approx(precopy.WORK_S + 0.1)
    assert precopy.joining_s(250_000_000, is_gathered=False) == precopy.WORK_S


@given(worked_s=st.floats(0, 1e3), share=st.floats(1e-9, 1.0), left_s=st.floats(-1, 100))
def test_rests_are_short_and_no_longer_in_all_than_their_limit(worked_s: float, share: float, left_s: float) -> None:
    rests = list(precopy.rests(worked_s, share=share, left_s=left_s))
    assert all(0.0 < rest_s <= precopy.REST_S_MAX for rest_s in rests)
    assert sum(rests) <= max(0.0, left_s) + 1e-6


def test_all_rests_together_leave_most_of_the_room_for_growth() -> None:
    assert precopy.PACED_TOKENS <= precopy.GROWTH_TOKENS // 2
