"""A stop string ends the text wherever it is cut, and nothing of it is shown."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from sluice.text.stop_strings import StopFinder

few_letters = st.text(alphabet="ab", max_size=20)
stop_lists = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=3)


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """Read character by character: the first moment at which the text ends with a stop string."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def run(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    finder = StopFinder(stops)
    shown = "".join([*map(finder.push, pieces), finder.flush()])
    return shown, finder.is_stopped


@given(text=few_letters, stops=stop_lists)
@example(text="abcd", stops=["abcd", "c"])
def test_every_way_of_cutting_gives_the_same_text(text: str, stops: list[str]) -> None:
    want = expected(text, stops)
    assert run([text], stops) == want
    assert run(list(text), stops) == want
    for cut in range(len(text) + 1):
        assert run([text[:cut], text[cut:]], stops) == want


@given(text=few_letters, stops=stop_lists, cuts=st.lists(st.integers(0, 20), max_size=6))
def test_any_cuts_give_the_same_text(text: str, stops: list[str], cuts: list[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    assert run(pieces, stops) == expected(text, stops)


@given(text=few_letters, stops=stop_lists)
def test_no_more_is_held_back_than_a_stop_string_could_need(text: str, stops: list[str]) -> None:
    finder = StopFinder(stops)
    shown = ""
    for count, character in enumerate(text, 1):
        shown += finder.push(character)
        if finder.is_stopped:
            return
        assert len(shown) > count - max(map(len, stops))


def test_text_that_only_began_like_a_stop_string_is_shown_at_the_end() -> None:
    finder = StopFinder(["###"])
    assert [finder.push("a##"), finder.flush()] == ["a", "##"]


def test_after_the_stop_nothing_is_shown() -> None:
    finder = StopFinder(["end"])
    assert [finder.push("the end"), finder.push(" more"), finder.flush()] == ["the ", "", ""]
