"""Unread output is merged, bounded by its owner, and followed by the request's error."""

import asyncio

import pytest

from sluice.domain.role import FinishReason
from sluice.errors import DeadlineError
from sluice.router.output import Delivery, Outbox


def put(outbox: Outbox, choice: int, index: int, text: str, finish: FinishReason | None = None) -> None:
    piece = outbox.piece_of(choice, index=index)
    piece.text += text
    piece.tokens.append(index)
    piece.finish = finish
    outbox.unread_tokens += 1
    outbox.wake()
    if finish is not None:
        outbox.close_choice()


async def test_a_slow_reader_gets_several_tokens_in_one_piece() -> None:
    outbox = Outbox(choices=1, delivery=Delivery.EACH_STEP)
    put(outbox, 0, 0, "a")
    put(outbox, 0, 1, "b")
    assert outbox.unread_tokens == 2
    (piece,) = await outbox.take()
    assert (piece.text, piece.first_index, piece.tokens) == ("ab", 0, [0, 1])
    assert outbox.unread_tokens == 0


async def test_a_waiting_reader_is_woken_by_the_next_token() -> None:
    outbox = Outbox(choices=1, delivery=Delivery.EACH_STEP)
    reader = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    put(outbox, 0, 0, "a")
    assert [piece.text for piece in await reader] == ["a"]


async def test_reading_ends_when_every_choice_has_ended() -> None:
    outbox = Outbox(choices=2, delivery=Delivery.EACH_STEP)
    put(outbox, 0, 0, "a", FinishReason.STOP)
    put(outbox, 1, 0, "b", FinishReason.LENGTH)
    assert [piece.choice for piece in await outbox.take()] == [0, 1]
    assert await outbox.take() == []


async def test_whole_answers_wake_their_reader_once() -> None:
    outbox = Outbox(choices=2, delivery=Delivery.AT_END)
    reader = asyncio.create_task(outbox.take())
    put(outbox, 0, 0, "a", FinishReason.STOP)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not reader.done()
    put(outbox, 1, 0, "b", FinishReason.STOP)
    assert [piece.text for piece in await reader] == ["a", "b"]


async def test_an_error_follows_what_was_already_said() -> None:
    outbox = Outbox(choices=1, delivery=Delivery.EACH_STEP)
    put(outbox, 0, 0, "a")
    outbox.fail(DeadlineError("late"))
    assert [piece.text for piece in await outbox.take()] == ["a"]
    with pytest.raises(DeadlineError, match="late"):
        await outbox.take()


async def test_a_whole_answer_that_failed_is_only_an_error() -> None:
    outbox = Outbox(choices=1, delivery=Delivery.AT_END)
    put(outbox, 0, 0, "a")
    outbox.fail(DeadlineError("first"))
    outbox.fail(DeadlineError("second"))
    with pytest.raises(DeadlineError, match="first"):
        await outbox.take()
