"""Times on the command line."""

import pytest

from sluice.cli.admin_call import deadline_s
from sluice.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("words", "seconds"), [("60", 60.0), ("60s", 60.0), ("0", 0.0), ("1.5m", 90.0), ("1h", 3600.0), ("0.5", 0.5)]
)
def test_a_deadline_is_seconds_or_says_its_unit(words: str, seconds: float) -> None:
    assert deadline_s(words) == seconds


@pytest.mark.parametrize("words", ["", "-1", "-1s", "inf", "nan", "s", "60 s s", "1d", "soon", "1e999"])
def test_other_words_are_refused_by_the_option_s_name(words: str) -> None:
    with pytest.raises(InvalidRequestError, match="--deadline"):
        deadline_s(words)
