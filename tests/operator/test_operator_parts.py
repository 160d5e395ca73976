"""Small parts of the operator: who is looked at when, who of several acts, what a rollout looks like on paper."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.clock import ManualClock, SystemClock
from sluice.domain.role import Role
from sluice.errors import ClusterApiError
from sluice.operator.election import Election, Move, Seen, move
from sluice.operator.manifest import Kind, Ref, covers, marked
from sluice.operator.pool_plan import Rules
from sluice.operator.rollout_preview import preview
from sluice.operator.router_calls import traffic
from sluice.operator.work_queue import Schedule, WorkQueue
from sluice.testing.cluster.fake_cluster import FakeCluster

A, B = (Ref(Kind.MODEL_SERVICE, "default", name) for name in "ab")


# ------------------------------------------------------------ the queue


def test_an_earlier_wish_wins_and_a_later_one_changes_nothing() -> None:
    schedule = Schedule()
    schedule.ask(A, at_s=30.0)
    schedule.ask(A, at_s=1.0)
    schedule.ask(A, at_s=20.0)
    assert schedule.take(now_s=0.9, busy=set()) is None
    assert schedule.take(now_s=1.0, busy=set()) == A
    assert schedule.take(now_s=99.0, busy=set()) is None


def test_a_service_that_is_being_looked_at_waits_and_others_do_not() -> None:
    schedule = Schedule()
    schedule.ask(A, at_s=1.0)
    schedule.ask(B, at_s=2.0)
    assert schedule.take(now_s=5.0, busy={A}) == B
    assert schedule.take(now_s=5.0, busy={A}) is None
    assert schedule.take(now_s=5.0, busy=set()) == A


def test_who_is_waited_for_comes_before_everyone_who_is_overdue() -> None:
    schedule = Schedule()
    schedule.ask(A, at_s=1.0)
    schedule.ask(B, at_s=2.0)
    schedule.ask(B, at_s=float("-inf"))
    assert schedule.take(now_s=5.0, busy=set()) == B
    assert schedule.take(now_s=5.0, busy=set()) == A


def test_pauses_after_failures_double_up_to_the_limit() -> None:
    schedule = Schedule()
    assert [schedule.retry_s(A, retry_s_max=3.0) for _ in range(4)] == [0.5, 1.0, 2.0, 3.0]
    schedule.succeeded(A)
    assert schedule.retry_s(A, retry_s_max=3.0) == 0.5


async def test_a_look_that_fails_is_tried_again_and_never_runs_twice_at_once() -> None:
    running: list[Ref] = []
    looks: list[Ref] = []
    done = asyncio.Event()

    async def look(ref: Ref) -> float | None:
        assert ref not in running
        running.append(ref)
        looks.append(ref)
        await asyncio.sleep(0)
        running.remove(ref)
        match looks.count(ref):
            case 1:
                raise ClusterApiError("busy")
            case 2:
                raise ValueError("a bug")
            case 3:
                done.set()
        return None

    queue = WorkQueue(look, SystemClock(), parallel_max=4, retry_s_max=0.01)
    task = asyncio.create_task(queue.run())
    queue.ask(A)
    queue.ask(A)
    queue.ask(B)
    await asyncio.wait_for(done.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert looks.count(A) >= 2


# ------------------------------------------------------------ the election


def test_a_lease_is_taken_when_it_is_free_or_its_holder_is_silent() -> None:
    assert move(Seen(), me="a", now_s=0.0, lease_s=15.0) is Move.TAKE
    assert move(Seen(holder="b", since_s=0.0), me="a", now_s=14.9, lease_s=15.0) is Move.WAIT
    assert move(Seen(holder="b", since_s=0.0), me="a", now_s=15.0, lease_s=15.0) is Move.TAKE
    assert move(Seen(holder="a", since_s=0.0), me="a", now_s=99.0, lease_s=15.0) is Move.RENEW


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "tick", "cut a", "cut b"])), max_size=40))
def test_two_operators_never_act_at_the_same_time(history: list[tuple[str]]) -> None:
    """Steps of either in any order; a cut operator does not step, and stops acting when its lease has run out."""
    cluster, clock = FakeCluster(), ManualClock(100.0)
    acts = {"a": False, "b": False}
    held_since = {"a": 0.0, "b": 0.0}

    def election(me: str) -> Election:
        def on_change(is_held: bool) -> None:
            acts[me] = is_held
            held_since[me] = clock.now_s()

        return Election(cluster, clock, me=me, namespace="n", lease_s=15.0, on_change=on_change)

    both = {name: election(name) for name in acts}
    last_step = {"a": 0.0, "b": 0.0}
    for (event,) in history:
        if event in both:
            asyncio.run(both[event].step())
            last_step[event] = clock.now_s()
        elif event.startswith("cut"):
            cluster.is_down = True
            asyncio.run(both[event[-1]].step())
            cluster.is_down = False
        else:
            clock.advance(5.0)
        fresh = [name for name in acts if acts[name] and clock.now_s() - last_step[name] < 15.0]
        assert len(fresh) <= 1, "an operator that renews in time is the only one"


# ------------------------------------------------------------ rollouts on paper


@pytest.mark.parametrize("surge", [0, 1])
@pytest.mark.parametrize("prefill", [1, 2, 3])
@pytest.mark.parametrize("decode", [1, 2, 5])
def test_a_rollout_on_paper_ends_and_somebody_always_serves(prefill: int, decode: int, surge: int) -> None:
    pools = [("prefill", Role.PREFILL, prefill), ("decode", Role.DECODE, decode)]
    steps = list(preview(pools, Rules(surge=surge)))
    does = [one for step in steps for one in step.does]
    assert sum(one.startswith("remove ") for one in does) == prefill + decode
    assert all(min(step.ready.values()) >= 1 for step in steps)
    assert max(step.places for step in steps) <= prefill + decode + 2 * surge


def test_the_smallest_rollout_reads_like_this() -> None:
    steps = preview([("prefill", Role.PREFILL, 1), ("decode", Role.DECODE, 1)], Rules())
    does = [one.partition(":")[0] for step in steps for one in step.does]
    assert does[:5] == [
        "flip decode-0 to mixed",
        "drain prefill-0",
        "remove prefill-0",
        "start prefill-new-1",
        "wait until prefill-new-1 is ready",
    ]


# ------------------------------------------------------------ manifests and counts


def test_a_field_that_is_dropped_later_is_noticed() -> None:
    before = marked({"metadata": {"name": "x"}, "spec": {"a": 1, "b": 2}})
    after = marked({"metadata": {"name": "x"}, "spec": {"a": 1}})
    assert covers(before, before)
    assert not covers(before, after)


def test_a_server_may_leave_out_what_is_empty_and_add_what_it_likes() -> None:
    assert covers({"spec": {"x": 1, "added": True}}, {"spec": {"x": 1, "none": [], "nothing": {}}})
    assert covers({"ports": [{"name": "b", "n": 2}, {"name": "a", "n": 1}]}, {"ports": [{"name": "a", "n": 1}]})
    assert not covers({"words": ["a", "b"]}, {"words": ["a"]})


def test_a_routers_counts_are_read_from_its_metrics() -> None:
    text = (
        "# TYPE sluice_requests counter\n"
        'sluice_requests_total{outcome="completed"} 7\nsluice_requests_total{outcome="failed"} 1\n'
        "# TYPE sluice_slo_misses counter\n"
        'sluice_slo_misses_total{objective="ttft"} 3\n'
        "# TYPE sluice_queue_requests gauge\nsluice_queue_requests 2\n"
        "# TYPE sluice_migrations counter\n"
        'sluice_migrations_total{outcome="moved"} 5\nsluice_migrations_total{outcome="failed"} 1\n'
    )
    counted = traffic(text)
    assert (counted.ended, counted.ttft_misses, counted.tpot_misses, counted.queued) == (8, 3, 0, 2)
    assert counted.moved == 5
