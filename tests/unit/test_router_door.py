"""Who may come into a router: refused or held without workers, served by a leaving one, counted and bounded."""

import asyncio

import pytest

from sluice.errors import NoWorkerError, OverloadedError
from sluice.router.door import Door, HoldLimits


class Fleet:
    """Says why no worker serves; nothing when one does."""

    def __init__(self) -> None:
        self.why = "no worker is ready (none is connected)"

    def why_not_serving(self) -> str:
        return self.why


def door(fleet: Fleet, **limits: float) -> Door:
    return Door(fleet.why_not_serving, HoldLimits(**limits))  # type: ignore[arg-type]


async def test_without_a_worker_requests_are_refused_unless_they_are_held() -> None:
    fleet = Fleet()
    plain = door(fleet)
    assert plain.unready() == (fleet.why,)
    with pytest.raises(NoWorkerError, match="none is connected"):
        await plain.enter()
    assert door(fleet, hold_s=5.0).unready() == ()


async def test_held_requests_come_in_when_a_worker_serves() -> None:
    fleet = Fleet()
    holding = door(fleet, hold_s=30.0)
    waiting = [asyncio.create_task(holding.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    assert holding.held == 3
    holding.look()
    await asyncio.sleep(0)
    assert holding.held == 3, "nobody serves yet"
    fleet.why = ""
    holding.look()
    await asyncio.gather(*waiting)
    assert holding.held == 0
    await holding.enter()


async def test_holding_ends_after_its_time_with_a_refusal_that_may_be_tried_again() -> None:
    holding = door(Fleet(), hold_s=0.01)
    with pytest.raises(NoWorkerError, match=r"none is connected.*after") as refused:
        await holding.enter()
    assert refused.value.retryable
    assert holding.held == 0


async def test_more_than_the_bound_are_told_to_come_later() -> None:
    holding = door(Fleet(), hold_s=30.0, held_requests_max=1)
    first = asyncio.create_task(holding.enter())
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await holding.enter()
    first.cancel()
    await asyncio.wait({first})
    assert holding.held == 0, "a client that goes away makes room"


async def test_a_leaving_router_serves_who_comes_and_a_closed_one_refuses_even_who_is_held() -> None:
    fleet = Fleet()
    holding = door(fleet, hold_s=30.0)
    held = asyncio.create_task(holding.enter())
    await asyncio.sleep(0)
    holding.leave()
    assert holding.is_leaving
    assert holding.unready() == ("the router is stopping",)
    holding.close()
    with pytest.raises(NoWorkerError, match="stopping"):
        await held
    serving = door(fleet)
    fleet.why = ""
    serving.leave()
    await serving.enter()
    serving.close()
    with pytest.raises(NoWorkerError, match="stopping"):
        await serving.enter()
