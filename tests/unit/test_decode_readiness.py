"""How long a sender waits for room that is not ready yet."""

import asyncio
from itertools import count

import pytest

from sluice.decode_worker import readiness
from sluice.domain.ids import SequenceId
from sluice.engine.contract import Reservation


@pytest.mark.parametrize(("ready_at", "looks"), [(0, 1), (3, 4), (10_000, readiness.LOOKS_MAX)])
async def test_a_sender_is_answered_when_the_engine_is_ready_or_patience_ends(
    monkeypatch: pytest.MonkeyPatch, ready_at: int, looks: int
) -> None:
    """A copy that was faster than the memory for it made the client wait: 240 ms and more at 32k tokens."""

    async def no_time(_seconds: float) -> None:
        pass

    monkeypatch.setattr(asyncio, "sleep", no_time)
    numbers, asked = count(), []

    def is_ready() -> bool:
        asked.append(number := next(numbers))
        return number >= ready_at

    reservation = Reservation(sequence=SequenceId(1), blocks=(), cached_tokens=0, is_ready=is_ready)
    await readiness.wait_ready(reservation)
    assert len(asked) == looks
