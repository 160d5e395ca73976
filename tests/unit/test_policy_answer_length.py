"""Answers are expected to be as long as the latest ones, and never longer than they may be."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.policy.answer_length import TOKENS_FIRST, AnswerLength


@given(st.lists(st.integers(1, 10_000), max_size=60), st.integers(1, 20_000))
def test_an_expectation_lies_between_what_was_seen_and_within_the_limit(lengths: list[int], limit: int) -> None:
    answers = AnswerLength()
    for tokens in lengths:
        answers.note(tokens)
    seen = [TOKENS_FIRST, *lengths]
    assert min(*seen, limit) - 1e-6 <= answers.expected(tokens_max=limit) <= min(max(seen), limit) + 1e-6


def test_it_follows_a_change_within_a_few_hundred_answers() -> None:
    answers = AnswerLength()
    for _ in range(300):
        answers.note(40)
    assert 40 <= answers.expected(tokens_max=1000) < 42
    assert answers.expected(tokens_max=10) == 10
