"""What a status says can be applied to every server, and tells facts from what always moves."""

from dataclasses import replace
from typing import Any

from operator_trial import Trial, model_service

from sluice.domain.ids import BootId, WorkerId
from sluice.domain.load import LinkLoad
from sluice.operator import status
from sluice.operator.status import Difference


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def link(**changes: Any) -> LinkLoad:
    plain = LinkLoad(peer=WorkerId("b"), peer_boot=BootId("b-1"), transport="")
    return replace(plain, **changes)


def test_no_status_holds_an_empty_string() -> None:
    """Kubernetes 1.20 takes an applied "" for null and refuses it; a link nobody has used yet has no transport."""
    trial = Trial()
    trial.world.links = (link(),)
    ref = trial.write(model_service())
    trial.settle(ref)
    assert trial.status(ref)["kvFabric"][0]["transport"] == "none"
    assert "" not in strings(trial.status(ref))


def test_what_always_moves_is_told_from_facts() -> None:
    trial = Trial()
    ref = trial.write(model_service())
    trial.settle(ref)
    body = trial.world.cluster.objects[ref]
    same = {"status": dict(body["status"])}
    assert status.difference(body, same) is Difference.NONE
    assert status.difference(body, {"status": {**body["status"], "queued": 9}}) is Difference.DRIFT
    assert status.difference(body, {"status": {**body["status"], "workers": "1/2"}}) is Difference.FACTS


def test_speeds_that_move_are_written_now_and_then() -> None:
    trial = Trial()
    trial.world.links = (link(transport="tcp", gb_per_s=1.0),)
    ref = trial.write(model_service())
    trial.settle(ref)
    before = len(trial.world.cluster.writes)
    for second in range(60):
        trial.world.links = (link(transport="tcp", gb_per_s=2.0 + second),)
        trial.look(ref)
        trial.clock.advance(1.0)
    assert 3 <= len(trial.world.cluster.writes) - before <= 5


def test_requests_that_run_wait_and_have_moved_are_told() -> None:
    trial = Trial()
    ref = trial.write(model_service())
    trial.settle(ref)
    trial.world.count(moved=2)
    trial.settle(ref)
    trial.world.count(inflight=9, queued=3, held=1, moved=7)
    for _ in range(20):
        trial.step(ref)
    told = trial.status(ref)
    assert (told["running"], told["queued"], told["moved"]) == (6, 4, 7)
