"""A handoff never frees a block that a push may still read or write, and always ends."""

from collections.abc import Iterator
from itertools import pairwise, product

import pytest

from sluice.errors import IllegalTransitionError
from sluice.kv_transfer import diagram
from sluice.kv_transfer.handoff import (
    RECEIVER,
    RECEIVER_ENDS,
    SENDER,
    SENDER_ENDS,
    Receiver,
    ReceiverEffect,
    ReceiverEvent,
    ReceiverState,
    Sender,
    SenderEffect,
    SenderEvent,
    SenderState,
)

SENDING = {
    SenderState.RESERVING,
    SenderState.PUSHING,
    SenderState.COMMITTING,
    SenderState.ABANDONING,
    SenderState.CANCELLING,
}

SenderRun = list[tuple[SenderEvent, tuple[SenderEffect, ...]]]
ReceiverRun = list[tuple[ReceiverEvent, tuple[ReceiverEffect, ...]]]


def sender_runs(length: int) -> Iterator[tuple[SenderRun, Sender]]:
    """Every legal run of up to `length` events."""
    pending: list[tuple[SenderRun, SenderState]] = [([], SenderState.RESERVING)]
    while pending:
        run, state = pending.pop()
        yield run, Sender(state)
        if len(run) == length:
            continue
        for event in SenderEvent:
            if (state, event) in SENDER:
                sender = Sender(state)
                effects = sender.on(event)
                pending.append(([*run, (event, effects)], sender.state))


def receiver_runs(length: int) -> Iterator[tuple[ReceiverRun, Receiver]]:
    """Every legal run of up to `length` events."""
    pending: list[tuple[ReceiverRun, ReceiverState]] = [([], ReceiverState.RESERVED)]
    while pending:
        run, state = pending.pop()
        yield run, Receiver(state)
        if len(run) == length:
            continue
        for event in ReceiverEvent:
            if (state, event) in RECEIVER:
                receiver = Receiver(state)
                effects = receiver.on(event)
                pending.append(([*run, (event, effects)], receiver.state))


def test_a_senders_blocks_are_released_or_resumed_exactly_once() -> None:
    for run, sender in sender_runs(7):
        effects = [effect for _, effects in run for effect in effects]
        ends = effects.count(SenderEffect.RELEASE_BLOCKS) + effects.count(SenderEffect.RESUME)
        assert ends == (1 if sender.has_ended else 0)


def test_a_senders_blocks_are_never_let_go_while_pushes_run() -> None:
    letting_go = {SenderEffect.RELEASE_BLOCKS, SenderEffect.RESUME, SenderEffect.DROP_RESERVATION}
    for run, _ in sender_runs(7):
        may_write = False
        for event, effects in run:
            if event in {SenderEvent.PUSHES_DONE, SenderEvent.WRITES_STOPPED}:
                may_write = False
            assert not (may_write and letting_go & set(effects))
            if SenderEffect.START_PUSHES in effects:
                may_write = True


def test_a_commit_is_sent_only_after_every_push_is_done() -> None:
    for run, _ in sender_runs(7):
        for event, effects in run:
            if SenderEffect.SEND_COMMIT in effects:
                assert event is SenderEvent.PUSHES_DONE


def test_the_router_hears_of_every_target_exactly_once() -> None:
    reports = {SenderEffect.REPORT_COMMITTED, SenderEffect.REPORT_FAILED, SenderEffect.REPORT_REFUSED}
    for run, sender in sender_runs(7):
        effects = [effect for _, effects in run for effect in effects]
        targets = 1 + effects.count(SenderEffect.ASK_RESERVATION)
        heard = sum(effect in reports for effect in effects)
        is_settled = sender.state not in SENDING and sender.state is not SenderState.CANCELLED
        assert heard == targets if is_settled else heard in {targets, targets - 1}


def test_a_receivers_blocks_are_freed_or_attached_exactly_once_unless_lost() -> None:
    for run, receiver in receiver_runs(7):
        effects = [effect for _, effects in run for effect in effects]
        ends = effects.count(ReceiverEffect.FREE_BLOCKS) + effects.count(ReceiverEffect.ENTER_BATCH)
        assert ends == (1 if receiver.state in {ReceiverState.FREED, ReceiverState.ATTACHED} else 0)


def test_a_receivers_blocks_are_never_freed_while_writes_may_run() -> None:
    safe = {ReceiverEvent.WRITES_STOPPED, ReceiverEvent.SENDER_STOPPED}
    for run, _ in receiver_runs(7):
        has_stopped = False
        for event, effects in run:
            has_stopped |= event in safe or event is ReceiverEvent.PARKED
            if ReceiverEffect.FREE_BLOCKS in effects:
                assert has_stopped


def test_a_grant_is_closed_before_its_blocks_go_anywhere() -> None:
    for run, receiver in receiver_runs(7):
        effects = [effect for _, effects in run for effect in effects]
        assert effects.count(ReceiverEffect.CLOSE_GRANT) == (0 if receiver.state is ReceiverState.RESERVED else 1)
        is_parked = receiver.state is ReceiverState.PARKED
        assert effects.count(ReceiverEffect.END_LEASE) == effects.count(ReceiverEffect.CLOSE_GRANT) - is_parked
        for goal in (ReceiverEffect.FREE_BLOCKS, ReceiverEffect.ENTER_BATCH):
            if goal in effects:
                assert effects.index(ReceiverEffect.CLOSE_GRANT) < effects.index(goal)


def test_blocks_that_are_lost_restart_the_worker_and_are_never_freed() -> None:
    for run, receiver in receiver_runs(7):
        effects = [effect for _, effects in run for effect in effects]
        assert (ReceiverEffect.RESTART_WORKER in effects) == (receiver.state is ReceiverState.LOST)


def test_ended_handoffs_accept_nothing() -> None:
    for state, event in product(SENDER_ENDS, SenderEvent):
        with pytest.raises(IllegalTransitionError, match=state.name):
            Sender(state).on(event)
    for end, happening in product(RECEIVER_ENDS, ReceiverEvent):
        with pytest.raises(IllegalTransitionError, match=end.name):
            Receiver(end).on(happening)


def test_every_state_is_reached_and_every_event_and_effect_used() -> None:
    assert {SenderState.RESERVING} | {row[0] for row in SENDER.values()} == set(SenderState)
    assert {event for _, event in SENDER} == set(SenderEvent)
    assert {effect for row in SENDER.values() for effect in row[1]} == set(SenderEffect)
    assert {ReceiverState.RESERVED} | {row[0] for row in RECEIVER.values()} == set(ReceiverState)
    assert {event for _, event in RECEIVER} == set(ReceiverEvent)
    assert {effect for row in RECEIVER.values() for effect in row[1]} == set(ReceiverEffect)


def test_cancelling_is_possible_until_the_end() -> None:
    assert all((state, SenderEvent.CANCELLED) in SENDER for state in set(SenderState) - SENDER_ENDS)
    assert all((state, ReceiverEvent.CANCELLED) in RECEIVER for state in set(ReceiverState) - RECEIVER_ENDS)


def test_the_page_in_the_docs_is_drawn_from_the_tables() -> None:
    page = diagram.render()
    assert diagram.PAGE.read_text() == page, "run `python -m sluice.kv_transfer.diagram`"
    assert all(f"{before.value} --> " in page for before, _ in SENDER)
    assert all(first < second for first, second in pairwise([page.index("pushes"), page.index("receives")]))
