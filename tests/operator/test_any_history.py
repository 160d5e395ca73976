"""Whatever people, nodes and crashes do to a service: no request is lost, and it settles as asked."""

from hypothesis import given, settings
from hypothesis import strategies as st
from operator_trial import Trial, model_service

from sluice.operator.observation import NodeView

PLACES = 6

EVENTS = st.one_of(
    st.tuples(st.just("scale prefill"), st.integers(1, 3)),
    st.tuples(st.just("scale decode"), st.integers(1, 3)),
    st.tuples(st.just("edit"), st.integers(10, 99)),
    st.tuples(st.just("operator crash"), st.integers(0, 5)),
    st.tuples(st.just("cordon"), st.just(0)),
    st.tuples(st.just("requests"), st.integers(0, 5)),
    st.tuples(st.just("time"), st.integers(1, 6)),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(EVENTS, max_size=8), st.booleans(), st.integers(0, 1))
def test_a_service_survives_any_history(events: list[tuple[str, int]], flips: bool, surge: int) -> None:
    trial = Trial()
    trial.world.places = PLACES + 2 * surge
    bounds = {"replicas": {"min": 1, "max": 3}}
    scaling = {"scaling": {"downAfterSeconds": 86400, "upAfterSeconds": 3600}} if flips else {}
    ref = trial.write(model_service(pools={"prefill": bounds, "decode": bounds}, rollout={"surge": surge}, **scaling))
    trial.settle(ref)
    wanted = {"prefill": 1, "decode": 1}
    for what, number in events:
        match what:
            case "scale prefill" | "scale decode":
                pool = what.removeprefix("scale ")
                wanted[pool] = number
                trial.scale(pool, number)
            case "edit":
                trial.edit(ref, drain={"deadlineSeconds": number})
            case "operator crash":
                trial.world.cluster.crash_after_writes = number
            case "cordon":
                trial.world.cordon("n1")
                # Another node comes: a full cluster could not replace what stands on n1.
                trial.world.places = PLACES + 2 * surge + 2
                trial.nodes["n1"] = NodeView(is_cordoned=True)
            case "requests":
                for worker in trial.world.workers.values():
                    worker.sequences += number
            case _:
                for _ in range(number):
                    trial.step(ref)
    trial.settle(ref, ticks_max=600)
    assert trial.world.lost_requests == 0
    assert trial.world.pods_max <= trial.world.places
    for pool, size in wanted.items():
        assert trial.pool(ref, pool)["ready"] == size, pool
    assert len(trial.worker_pods()) == sum(wanted.values())
    for pod in trial.world.placed():
        assert "sluice.dev/leaving" not in (pod["metadata"].get("annotations") or {})
