"""A sequence's journey: every legal run ends, starts are matched by cancels or closes, nothing follows DONE."""

from itertools import pairwise

import pytest

from sluice.errors import IllegalTransitionError
from sluice.router.journey import RUNNING, TRANSITIONS, Effect, Event, State, advance, expects


def runs(length: int) -> list[tuple[State, tuple[Event, ...], tuple[Effect, ...]]]:
    """Every legal run of up to `length` events from QUEUED."""
    frontier: list[tuple[State, tuple[Event, ...], tuple[Effect, ...]]] = [(State.QUEUED, (), ())]
    found = list(frontier)
    for _ in range(length):
        frontier = [
            (TRANSITIONS[state, event][0], (*events, event), (*effects, *TRANSITIONS[state, event][1]))
            for state, events, effects in frontier
            for event in Event
            if (state, event) in TRANSITIONS
        ]
        found += frontier
    return found


RUNS = runs(5)


def test_every_state_is_reachable() -> None:
    assert {state for state, _, _ in RUNS} == set(State)


def test_a_journey_closes_exactly_once_and_only_when_done() -> None:
    for state, _, effects in RUNS:
        assert effects.count(Effect.CLOSE) == (state is State.DONE)


def test_a_sequence_is_never_started_again_before_its_workers_were_told_to_stop() -> None:
    for _, _, effects in RUNS:
        may_start = True
        for effect in effects:
            if effect is Effect.START:
                assert may_start
                may_start = False
            may_start = may_start or effect is Effect.QUEUE_AGAIN
        for before, effect in pairwise(effects):
            if effect is Effect.QUEUE_AGAIN:
                assert before is Effect.CANCEL


def test_the_client_can_leave_at_any_time() -> None:
    assert all(expects(state, Event.ENDED) for state in State if state is not State.DONE)


def test_a_lost_worker_never_ends_a_request_by_itself() -> None:
    assert all(advance(state, Event.OWNER_LOST)[0] is State.QUEUED for state in RUNNING)


def test_nothing_happens_after_the_end() -> None:
    for event in Event:
        with pytest.raises(IllegalTransitionError):
            advance(State.DONE, event)
