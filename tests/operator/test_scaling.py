"""Pools grow and shrink by the platform's own signals, in their time, and never swing."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_trial import Trial, model_service

from sluice.domain.load import WorkerLoad
from sluice.domain.role import Lifecycle, Role
from sluice.operator.resources.model_service import ScalingSpec
from sluice.operator.routers import WorkerView
from sluice.operator.scaling import Demand, PoolLoad, ScalingState, scale, worker_load
from sluice.testing.cluster.small_world import worker_view

SPEC = ScalingSpec.model_validate({"upAfterSeconds": 10, "downAfterSeconds": 100})
BUSY = Demand(inflight=10, ended=100)


def pool(*, load: float, replicas: int = 2, low: int = 1, high: int = 8, role: Role = Role.DECODE) -> PoolLoad:
    return PoolLoad(name="p", role=role, replicas=replicas, min=low, max=high, ready=replicas, load=load)


def after(seconds: float, one: PoolLoad, demand: Demand = BUSY) -> int:
    """The size asked for when a load has lasted so long."""
    _, state = scale([one], demand, SPEC, ScalingState(), now_s=0.0)
    wanted, _ = scale([one], demand, SPEC, state, now_s=seconds)
    return wanted["p"]


def test_a_full_pool_grows_after_its_time_and_not_before() -> None:
    assert after(9.9, pool(load=0.9)) == 2
    assert after(10.0, pool(load=0.9)) == 3


def test_a_pool_is_sized_for_the_load_it_has() -> None:
    assert after(10.0, pool(load=1.3, replicas=4)) == 8
    assert after(10.0, pool(load=0.85, replicas=4)) == 5


def test_a_pool_never_leaves_its_bounds() -> None:
    assert after(10.0, pool(load=5.0, replicas=8)) == 8
    assert after(100.0, pool(load=0.0, replicas=1)) == 1


def test_a_pool_with_room_to_spare_shrinks_by_one_after_a_long_time() -> None:
    assert after(99.0, pool(load=0.1, replicas=4)) == 4
    assert after(100.0, pool(load=0.1, replicas=4)) == 3


def test_nothing_shrinks_while_requests_wait() -> None:
    assert after(100.0, pool(load=0.1, replicas=4), Demand(queued=1)) == 4


@pytest.mark.parametrize(("role", "grows"), [(Role.PREFILL, True), (Role.DECODE, False), (Role.MIXED, True)])
def test_late_first_tokens_make_the_pools_grow_that_prefill(role: Role, grows: bool) -> None:
    late = Demand(inflight=5, ended=100, ttft_misses=5)
    assert (after(10.0, pool(load=0.7, role=role), late) > 2) is grows


def test_misses_without_load_do_not_make_a_pool_grow() -> None:
    assert after(10.0, pool(load=0.3), Demand(inflight=1, ended=100, tpot_misses=100)) == 2


def test_a_last_worker_goes_when_its_pool_may_be_empty_and_nobody_has_asked_for_long() -> None:
    last = pool(load=0.0, replicas=1, low=0)
    assert after(99.0, last, Demand(ended=7)) == 1
    assert after(100.0, last, Demand(ended=7)) == 0
    assert after(10_000.0, pool(load=0.0, replicas=1), Demand()) == 1


@pytest.mark.parametrize("demand", [Demand(fresh=1), Demand(inflight=1), Demand(queued=1), Demand(held=1)])
def test_a_last_worker_stays_while_somebody_asks(demand: Demand) -> None:
    assert after(10_000.0, pool(load=0.0, replicas=1, low=0), demand) == 1


def test_an_empty_pool_gets_a_worker_at_once_when_a_request_waits_and_not_before() -> None:
    empty = pool(load=0.0, replicas=0, low=0)
    assert after(10_000.0, empty, Demand(inflight=0)) == 0
    assert scale([empty], Demand(held=1), SPEC, ScalingState(), now_s=0.0)[0] == {"p": 1}
    assert scale([empty], Demand(queued=1), SPEC, ScalingState(), now_s=0.0)[0] == {"p": 1}


@given(
    work=st.floats(0, 20),
    replicas=st.integers(1, 30),
    queued=st.integers(0, 3),
    misses=st.integers(0, 20),
)
def test_a_steady_load_is_answered_by_growing_or_shrinking_and_never_by_both(
    work: float, replicas: int, queued: int, misses: int
) -> None:
    """`work` is the load in workers' worth; the pool may follow it, for as long as it likes."""
    demand = Demand(queued=queued, inflight=1, ended=100, tpot_misses=misses)
    sizes, state, now_s = [replicas], ScalingState(), 0.0
    for _ in range(120):
        now_s += 20.0
        one = pool(load=work / sizes[-1], replicas=sizes[-1], high=30)
        wanted, state = scale([one], demand, SPEC, state, now_s=now_s)
        sizes.append(wanted["p"])
    steps = [later - earlier for earlier, later in itertools.pairwise(sizes)]
    assert not (any(step > 0 for step in steps) and any(step < 0 for step in steps)), sizes


@given(role=st.sampled_from(Role), running=st.integers(0, 500), free=st.integers(0, 100))
def test_more_work_is_never_less_load(role: Role, running: int, free: int) -> None:
    def view(running: int, free: int) -> WorkerView:
        load = WorkerLoad(lifecycle=Lifecycle.READY, running_sequences=running, free_blocks=free)
        return worker_view("w", role, load, router="r")

    assert worker_load(view(running, free), role) <= worker_load(view(running + 1, max(0, free - 1)), role)


# ------------------------------------------------------------ the whole operator


def scaled(**decode: object) -> tuple[Trial, object]:
    trial = Trial()
    pools = {"prefill": {"replicas": {"min": 1, "max": 4}}, "decode": {"replicas": {"min": 1, "max": 4}, **decode}}
    ref = trial.write(model_service(pools=pools, scaling={"upAfterSeconds": 5, "downAfterSeconds": 20}))
    trial.settle(ref)
    return trial, ref


def test_a_service_falls_asleep_and_a_held_request_wakes_it() -> None:
    trial = Trial()
    pools = {name: {"replicas": {"min": 0, "max": 2}} for name in ("prefill", "decode")}
    ref = trial.write(model_service(pools=pools, scaling={"upAfterSeconds": 5, "downAfterSeconds": 20}))
    for _ in range(10):
        trial.step(ref)
    assert trial.worker_pods() == []
    assert trial.condition(ref, "Available")["reason"] == "Asleep"
    assert trial.look(ref).again_s == trial.config.asleep_s
    trial.world.count(held=3)
    for _ in range(15):
        trial.step(ref)
    assert len(trial.worker_pods()) == 2
    trial.world.count(held=0, ended=3)
    for _ in range(60):
        trial.step(ref)
    assert trial.worker_pods() == []
    assert trial.condition(ref, "Available")["status"] == "True"


def test_the_operator_starts_a_worker_when_decode_is_full() -> None:
    trial, ref = scaled()
    trial.world.count(inflight=60)
    for name in trial.worker_pods("decode"):
        trial.world.workers[name].sequences = 60
    for _ in range(20):
        trial.step(ref)
    assert len(trial.worker_pods("decode")) == 2


def test_a_spare_prefill_worker_decodes_before_a_pod_is_started() -> None:
    trial, ref = scaled()
    trial.scale("prefill", 3)
    for _ in range(5):
        trial.step(ref)
    pods = trial.worker_pods()
    assert len(trial.worker_pods("prefill")) == 3
    trial.world.count(inflight=60)
    for name in trial.worker_pods("decode"):
        trial.world.workers[name].sequences = 60
    for _ in range(60):
        trial.step(ref)
        roles = [worker.role for worker in trial.world.workers.values()]
        if roles.count(Role.DECODE) == 2:
            break
    assert roles.count(Role.DECODE) == 2
    assert set(trial.worker_pods()) <= set(pods), "no new pod"
    trial.step(ref)
    assert trial.pool(ref, "prefill")["lent"] == 1
    assert trial.pool(ref, "decode")["ready"] == 2
