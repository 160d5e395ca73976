"""A migration ends with one owner, whatever happens on the way."""

from collections.abc import Iterator
from itertools import product

import pytest

from sluice.errors import IllegalTransitionError
from sluice.kv_transfer import diagram
from sluice.kv_transfer.migration import SOURCE, SOURCE_ENDS, Migration, SourceEffect, SourceEvent, SourceState

Run = list[tuple[SourceEvent, tuple[SourceEffect, ...]]]
STANDING_STILL = {SourceState.FROZEN, SourceState.COMMITTING, SourceState.READY}


def runs(length: int) -> Iterator[tuple[Run, Migration]]:
    """Every legal run of up to `length` events."""
    pending: list[tuple[Run, SourceState]] = [([], SourceState.RESERVING)]
    while pending:
        run, state = pending.pop()
        yield run, Migration(state)
        if len(run) == length:
            continue
        for event in SourceEvent:
            if (state, event) in SOURCE:
                migration = Migration(state)
                effects = migration.on(event)
                pending.append(([*run, (event, effects)], migration.state))


def effects_of(run: Run) -> list[SourceEffect]:
    return [effect for _, effects in run for effect in effects]


def test_a_sequence_that_stays_is_never_left_frozen() -> None:
    for run, migration in runs(8):
        effects = effects_of(run)
        is_still = effects.count(SourceEffect.FREEZE) - effects.count(SourceEffect.UNFREEZE)
        assert is_still in {0, 1}
        if migration.state is SourceState.STAYED:
            assert is_still == 0
        if migration.state in STANDING_STILL:
            assert is_still == 1


def test_a_commit_is_sent_only_frozen_and_only_after_every_push_is_done() -> None:
    for run, _ in runs(8):
        for i, (event, effects) in enumerate(run):
            if SourceEffect.SEND_COMMIT in effects:
                assert event is SourceEvent.PUSHES_DONE
                assert SourceEffect.FREEZE in effects_of(run[:i])


def test_the_router_hears_exactly_once_of_a_sequence_that_lives_on() -> None:
    reports = {SourceEffect.REPORT_READY, SourceEffect.REPORT_REFUSED, SourceEffect.REPORT_FAILED}
    for run, migration in runs(8):
        heard = sum(effect in reports for effect in effects_of(run))
        assert heard == 1 if migration.state in {SourceState.STAYED, SourceState.MOVED} else heard <= 1


def test_a_reservation_the_router_may_have_granted_is_never_dropped_by_the_source() -> None:
    for run, migration in runs(8):
        if migration.state is SourceState.MOVED:
            assert SourceEffect.DROP_RESERVATION not in effects_of(run)


def test_a_reservation_is_dropped_only_when_no_push_runs() -> None:
    for run, _ in runs(8):
        may_write = False
        for event, effects in run:
            if event in {SourceEvent.PUSHES_DONE, SourceEvent.WRITES_STOPPED}:
                may_write = False
            assert not (may_write and SourceEffect.DROP_RESERVATION in effects)
            may_write |= SourceEffect.START_PUSHES in effects


def test_ended_migrations_accept_nothing() -> None:
    for state, event in product(SOURCE_ENDS, SourceEvent):
        with pytest.raises(IllegalTransitionError, match=state.name):
            Migration(state).on(event)


def test_every_state_is_reached_and_every_event_and_effect_used() -> None:
    assert {SourceState.RESERVING} | {row[0] for row in SOURCE.values()} == set(SourceState)
    assert {event for _, event in SOURCE} == set(SourceEvent)
    assert {effect for row in SOURCE.values() for effect in row[1]} == set(SourceEffect)


def test_the_page_in_the_docs_is_drawn_from_the_table() -> None:
    assert diagram.MIGRATION_PAGE.read_text() == diagram.render_migration()
