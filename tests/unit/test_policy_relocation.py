"""A running sequence moves by the way that costs its client less."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.policy.relocation import Rates, Way, choose_way

FAST_LINK = Rates(copy_s_per_token=1e-6, prefill_s_per_token=1e-3)
SLOW_LINK = Rates(copy_s_per_token=1.0, prefill_s_per_token=1e-3)


def test_long_sequences_are_copied_over_fast_links() -> None:
    assert choose_way(FAST_LINK, tokens=8000, cached_tokens=0) is Way.COPY


def test_nothing_is_copied_over_a_link_slower_than_computing() -> None:
    assert choose_way(SLOW_LINK, tokens=8000, cached_tokens=0) is Way.RECOMPUTE


def test_what_the_target_has_cached_need_not_be_copied() -> None:
    assert choose_way(FAST_LINK, tokens=8000, cached_tokens=7999) is Way.RECOMPUTE


def test_without_measurements_it_is_copied() -> None:
    assert choose_way(Rates(), tokens=10, cached_tokens=0) is Way.COPY


@given(st.integers(0, 100_000), st.floats(1e-7, 1e-2), st.floats(1e-6, 1e-2))
def test_a_faster_link_never_makes_copying_less_attractive(tokens: int, copy_s: float, prefill_s: float) -> None:
    slow = Rates(copy_s_per_token=copy_s, prefill_s_per_token=prefill_s)
    fast = Rates(copy_s_per_token=copy_s / 2, prefill_s_per_token=prefill_s)
    if choose_way(slow, tokens=tokens, cached_tokens=0) is Way.COPY:
        assert choose_way(fast, tokens=tokens, cached_tokens=0) is Way.COPY


def test_rates_follow_what_is_measured_and_ignore_the_shortest() -> None:
    rates = Rates().with_copy(tokens=1000, seconds=1.0).with_prefill(tokens=100, seconds=1.0)
    assert rates == Rates(copy_s_per_token=1e-3, prefill_s_per_token=1e-2)
    assert rates.with_copy(tokens=3, seconds=9.0) == rates
    assert 1e-3 < rates.with_copy(tokens=100, seconds=1.0).copy_s_per_token < 1e-2
