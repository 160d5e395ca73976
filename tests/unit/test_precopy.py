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
    assert precopy.owed_s(0.01, share=0.05) == pytest.approx(0.19)
    assert precopy.owed_s(0.1, share=0.05) == pytest.approx(1.9)
    assert precopy.owed_s(0.01, share=1.0) == 0.0


def test_joining_costs_more_where_keys_are_gathered() -> None:
    assert precopy.joining_s(250_000_000, is_gathered=True) == pytest.approx(precopy.WORK_S + 0.25)
    assert precopy.joining_s(250_000_000, is_gathered=False) == precopy.WORK_S


def tokens_while_resting(*, worked_s: float, share: float, paced: int, step_s: float, guessed_step_s: float) -> float:
    """How many tokens come while a copy rests that owes so much, as `moving.py` rests."""
    owed_s, tokens = precopy.owed_s(worked_s, share=share), 0.0
    while (rest_s := precopy.rest_s(owed_s, left_tokens=paced - int(tokens), step_s=guessed_step_s)) > 0.0:
        assert rest_s <= precopy.REST_S_MAX
        owed_s -= rest_s
        tokens += rest_s / step_s
    return tokens


@given(
    worked_s=st.floats(0, 1e3),
    share=st.floats(1e-6, 1.0),
    paced=st.integers(0, 5000),
    step_s=st.floats(1e-3, 1.0),
    wrong=st.floats(0.1, 1e3),
)
def test_rests_end_with_the_tokens_they_may_last_however_wrong_the_guess_of_a_step_is(
    worked_s: float, share: float, paced: int, step_s: float, wrong: float
) -> None:
    """Just after a long prompt the engine's steps are guessed twenty times too long; a move then outgrew its room."""
    tokens = tokens_while_resting(
        worked_s=worked_s, share=share, paced=paced, step_s=step_s, guessed_step_s=step_s * wrong
    )
    assert tokens <= paced + max(1.0, precopy.REST_S_MAX / step_s)


def test_nobody_rests_before_a_step_was_made() -> None:
    assert precopy.rest_s(1.0, left_tokens=100, step_s=0.0) == 0.0


@given(tokens=st.integers(1, 1_000_000))
def test_resting_leaves_half_of_the_room_for_growth(tokens: int) -> None:
    growth = precopy.growth_tokens(tokens)
    assert growth >= 256
    assert growth >= tokens // 16
    assert precopy.paced_tokens(growth) <= growth // 2
