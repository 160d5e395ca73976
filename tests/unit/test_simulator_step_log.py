"""Tokens of a compressed log are judged exactly as if each had been written down."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.simulator.gap_histogram import GapHistogram
from sluice.simulator.step_log import Deadlines, StepLog, row_end_s

rows = st.lists(
    st.tuples(
        st.integers(1, 40),  # steps
        st.floats(0.0, 0.2),  # idle before
        st.floats(0.001, 0.1),  # first step
        st.sampled_from([0.0, 1e-5, 1e-3]),  # growth
    ),
    min_size=1,
    max_size=12,
)


@given(rows=rows, previous_s=st.floats(0.0, 1.0), gap_s_max=st.floats(0.005, 0.3), tpot_s=st.floats(0.001, 0.2))
@settings(max_examples=150, deadline=None)
def test_a_stretch_of_decoding_is_judged_token_by_token(
    rows: list[tuple[int, float, float, float]], previous_s: float, gap_s_max: float, tpot_s: float
) -> None:
    log, tokens_s, first, now_s = StepLog(), [], 7, 1.0
    for steps, idle_s, step_s, growth_s in rows:
        now_s += idle_s
        log.append(first=first, steps=steps, start_s=now_s, step_s=step_s, growth_s=growth_s)
        tokens_s += [row_end_s(now_s, after, step_s, growth_s) for after in range(1, steps + 1)]
        first += steps
        now_s = tokens_s[-1]
    deadlines = Deadlines(first_due_s=0.9, tpot_s=tpot_s, gap_s_max=gap_s_max)
    got = log.spacing(7, first, previous_s=previous_s, token=1, deadlines=deadlines)
    gaps_s = [later - earlier for earlier, later in itertools.pairwise([previous_s, *tokens_s])]
    lateness_s = [token_s - 0.9 - index * tpot_s for index, token_s in enumerate(tokens_s, start=1)]
    assert got.worst_gap_s == pytest.approx(max(gaps_s))
    assert got.last_s == pytest.approx(tokens_s[-1])
    edges = sum(abs(gap_s - gap_s_max) < 1e-9 for gap_s in gaps_s)
    assert abs(got.long_gaps - sum(gap_s > gap_s_max for gap_s in gaps_s)) <= edges
    edges = sum(abs(late_s) < 1e-9 for late_s in lateness_s)
    assert abs(got.late_tokens - sum(late_s > 0.0 for late_s in lateness_s)) <= edges


def test_rows_before_the_oldest_sequence_are_forgotten() -> None:
    log = StepLog()
    for first in range(0, 100, 10):
        log.append(first=first, steps=10, start_s=float(first), step_s=0.1, growth_s=0.0)
    log.trim(35)
    deadlines = Deadlines(first_due_s=100.0, tpot_s=1.0, gap_s_max=1.0)
    assert log.spacing(40, 100, previous_s=40.0, token=1, deadlines=deadlines).last_s == pytest.approx(91.0)


@given(gap_s=st.floats(0.001, 1.0), growth_s=st.sampled_from([0.0, 1e-6, 1e-4, 1e-2]), steps=st.integers(1, 200))
@settings(deadline=None)
def test_growing_gaps_are_counted_one_by_one(gap_s: float, growth_s: float, steps: int) -> None:
    at_once, one_by_one = GapHistogram(), GapHistogram()
    at_once.add_growing(gap_s, growth_s, steps=steps, count=3)
    for step in range(steps):
        one_by_one.add(gap_s + growth_s * step, 3)
    assert at_once.total == one_by_one.total
    assert at_once.total_s == pytest.approx(one_by_one.total_s)
    for share in (0.01, 0.5, 0.99):
        assert at_once.quantile_s(share) == pytest.approx(one_by_one.quantile_s(share), rel=0.011)
