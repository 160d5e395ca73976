"""Which incarnations have been replaced, by what routers say one after the other."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.ids import BootId, WorkerId
from sluice.worker.successions import Successions

P = WorkerId("p")


def told(*boots: str) -> list[list[BootId]]:
    successions: Successions[str] = Successions()
    return [successions.hear("r", {P: BootId(boot)} if boot else {}) for boot in boots]


def test_a_new_boot_of_a_known_name_ends_the_old_one_once() -> None:
    assert told("a", "a", "b", "b") == [[], [], ["a"], []]


def test_a_name_that_is_missing_for_a_while_is_remembered() -> None:
    assert told("a", "", "", "b") == [[], [], [], ["a"]]


def test_a_name_that_only_goes_ends_nothing() -> None:
    assert told("a", "", "") == [[], [], []]


def test_a_router_that_is_behind_ends_nobody() -> None:
    """It still names the old boot after another router has named the new one."""
    successions: Successions[str] = Successions()
    for router in ("r0", "r1"):
        successions.hear(router, {P: BootId("a")})
    assert successions.hear("r0", {P: BootId("b")}) == ["a"]
    assert successions.hear("r1", {P: BootId("a")}) == []
    assert successions.hear("r1", {P: BootId("b")}) == []


def test_what_has_been_replaced_replaces_nobody_when_it_turns_up_again() -> None:
    assert told("a", "b", "a", "b") == [[], ["a"], [], []]


def test_a_lost_router_begins_anew() -> None:
    successions: Successions[str] = Successions()
    successions.hear("r", {P: BootId("a")})
    successions.forget("r")
    assert successions.hear("r", {P: BootId("b")}) == []


@given(st.lists(st.tuples(st.sampled_from("rst"), st.sampled_from("pq"), st.integers(0, 5)), max_size=40))
def test_the_newest_boot_is_never_ended_however_far_behind_each_router_is(
    words: list[tuple[str, str, int]],
) -> None:
    """Every router names boots in the order in which they came, at its own pace."""
    successions: Successions[str] = Successions()
    latest: dict[tuple[str, str], int] = {}
    ended: list[BootId] = []
    for router, worker, ahead in words:
        latest[router, worker] = number = max(latest.get((router, worker), 0), ahead)
        ended += successions.hear(router, {WorkerId(worker): BootId(f"{worker}{number}")})
        for name in "pq":
            newest = max((n for (_, w), n in latest.items() if w == name), default=0)
            assert f"{name}{newest}" not in ended
    assert all(ended.count(boot) == 1 for boot in ended)
    assert not list(itertools.filterfalse(lambda boot: boot[0] in "pq", ended))
