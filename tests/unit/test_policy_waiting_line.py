"""Urgency goes first, tenants take turns, and nobody waits forever."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.slo import Urgency
from sluice.policy.waiting_line import BYPASSED_MAX, WaitingLine


class Item:
    """An item is told from others by being itself."""

    def __init__(self, name: str) -> None:
        self.name = name


def enter(line: WaitingLine[Item], *names: str, tokens: int = 10, urgency: Urgency = Urgency.STANDARD) -> None:
    for name in names:
        line.enter(Item(name), tokens=tokens, urgency=urgency, tenant=name[0])


def served(line: WaitingLine[Item], most: int = 1000) -> list[str]:
    names = []
    while line and len(names) < most:
        names.append(line.take_first().name)
    return names


def test_one_tenant_is_served_first_come_first_served() -> None:
    line: WaitingLine[Item] = WaitingLine()
    enter(line, "a1", "a2", "a3")
    assert served(line) == ["a1", "a2", "a3"]


def test_a_tenant_that_sends_much_does_not_delay_one_that_sends_little() -> None:
    line: WaitingLine[Item] = WaitingLine()
    enter(line, "a1", "a2", "a3", "a4", "b1", "c1")
    assert served(line) == ["a1", "b1", "c1", "a2", "a3", "a4"]


def test_turns_are_measured_in_tokens() -> None:
    line: WaitingLine[Item] = WaitingLine()
    enter(line, "a1", "a2", tokens=30)
    enter(line, "b1", "b2", "b3", "b4", tokens=10)
    assert served(line) == ["a1", "b1", "b2", "b3", "a2", "b4"]


def test_time_spent_absent_earns_no_credit() -> None:
    line: WaitingLine[Item] = WaitingLine()
    enter(line, *(f"a{i}" for i in range(9)))
    served(line, 6)
    enter(line, "b1", "b2", "b3")
    assert served(line) == ["b1", "a6", "b2", "a7", "b3", "a8"]


def test_urgent_classes_go_first_but_no_class_is_passed_over_for_long() -> None:
    line: WaitingLine[Item] = WaitingLine()
    enter(line, "batch", urgency=Urgency.BATCH)
    enter(line, "later", urgency=Urgency.STANDARD)
    enter(line, *(f"i{i}" for i in range(20)), urgency=Urgency.INTERACTIVE)
    order = served(line)
    assert order[:BYPASSED_MAX] == [f"i{i}" for i in range(BYPASSED_MAX)]
    assert order[BYPASSED_MAX : BYPASSED_MAX + 2] == ["later", "batch"]


def test_who_lost_a_worker_goes_before_everyone() -> None:
    line: WaitingLine[Item] = WaitingLine()
    enter(line, "a1", urgency=Urgency.INTERACTIVE)
    line.return_to_front(Item("lost"))
    assert served(line) == ["lost", "a1"]


ARRIVALS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(Urgency)), st.integers(1, 100)))


@given(arrivals=ARRIVALS, leaving=st.sets(st.integers(0, 30)), returning=st.integers(0, 3))
def test_everybody_who_does_not_leave_is_served_exactly_once(
    arrivals: list[tuple[str, Urgency, int]], leaving: set[int], returning: int
) -> None:
    line: WaitingLine[Item] = WaitingLine()
    items = [Item(f"{tenant}{i}") for i, (tenant, _, _) in enumerate(arrivals)]
    for item, (tenant, urgency, tokens) in zip(items, arrivals, strict=True):
        line.enter(item, tokens=tokens, urgency=urgency, tenant=tenant)
    back = [Item("back") for _ in range(returning)]
    for item in back:
        line.return_to_front(item)
    gone = {i for i in leaving if i < len(items)}
    assert all(line.leave(items[i]) for i in gone)
    assert not any(line.leave(items[i]) for i in gone)
    assert set(line) == {*back, *(item for i, item in enumerate(items) if i not in gone)}
    expected = {item.name for i, item in enumerate(items) if i not in gone} | {item.name for item in back}
    order = served(line)
    assert len(order) == len(items) - len(gone) + returning
    assert set(order) == expected


@given(seed=st.integers(0, 2**32))
def test_the_wait_behind_other_tenants_is_bounded_by_their_fair_share(seed: int) -> None:
    draw = Random(seed)
    flood = [(draw.choice("bcd"), draw.randint(1, 100)) for _ in range(250)]
    line: WaitingLine[Item] = WaitingLine()
    work = {"b": 0, "c": 0, "d": 0}
    for i, (tenant, tokens) in enumerate(flood[:100]):
        line.enter(Item(f"{tenant}{i}"), tokens=tokens, urgency=Urgency.STANDARD, tenant=tenant)
    mine = Item("a")
    line.enter(mine, tokens=50, urgency=Urgency.STANDARD, tenant="a")
    for i, (tenant, tokens) in enumerate(flood[100:]):
        line.enter(Item(f"{tenant}{i}"), tokens=tokens, urgency=Urgency.STANDARD, tenant=tenant)
        first = line.take_first()
        if first is mine:
            break
        work[first.name[0]] += 1
    assert max(work.values()) <= 1  # nobody has spent anything: one turn each is all that may come before


@given(urgent=st.integers(30, 100))
def test_a_batch_request_is_bypassed_a_bounded_number_of_times(urgent: int) -> None:
    line: WaitingLine[Item] = WaitingLine()
    enter(line, "batch", urgency=Urgency.BATCH)
    enter(line, "standard", urgency=Urgency.STANDARD)
    for i in range(urgent):
        enter(line, f"i{i}", f"s{i}", urgency=Urgency.INTERACTIVE)
        enter(line, f"s{i}", urgency=Urgency.STANDARD)
        if line.take_first().name == "batch":
            assert i <= BYPASSED_MAX + 2
            return
    raise AssertionError("it starved")
