"""Which encode worker a router asks to look at a picture: the cheapest that is in time, else who is done first."""

import asyncio

import pytest

from sluice.clock import ManualClock
from sluice.domain.ids import BlockHash, BootId, RouterId, SequenceId, WorkerId
from sluice.domain.load import WorkerInfo, WorkerLoad
from sluice.domain.role import Lifecycle, Role
from sluice.domain.step import StepTerms
from sluice.router.fleet import Fleet, Member
from sluice.router.looks import Looks, Shown
from sluice.router.worker_link import WorkerLink


def join(
    fleet: Fleet, name: str, *, token_s: float, price_per_h: float, role: Role = Role.ENCODE, beside: str = ""
) -> Member:
    """An encode worker that expects `token_s` of an embedding; or another one, beside which an encode worker is."""
    info = WorkerInfo(
        worker=WorkerId(name),
        boot=BootId(f"{name}-boot"),
        role=role,
        model="m",
        model_fingerprint="f",
        beside=WorkerId(beside) if beside else None,
        kv_address="",
        block_tokens=16,
        blocks=1000,
        sequence_tokens_max=4096,
        batch_sequences_max=8,
        device=name,
        price_per_h=price_per_h,
        step_terms=StepTerms(
            base_s=0.0, prefill_token_s=token_s, pair_s=0.0, decode_s=0.0, context_token_s=0.0, error=0.0
        ),
    )
    member = fleet.join(info, WorkerLink(), now_s=0.0)
    fleet.beat(member, WorkerLoad(lifecycle=Lifecycle.READY, free_blocks=100), now_s=0.0)
    return member


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(expiry_s=5.0)


def looks_of(fleet: Fleet, *, ttft_s: float) -> Looks:
    numbers = iter(range(1, 1000))
    return Looks(
        fleet, ManualClock(), router=RouterId("r"), new_sequence=lambda: SequenceId(next(numbers)), ttft_s=ttft_s,
        tpot_s=0.05,
    )  # fmt: skip


def picture(number: int) -> Shown:
    return Shown(name=bytes([number]), data=b"", field="image_url", root=BlockHash(b"root"))


async def chosen(fleet: Fleet, *, ttft_s: float, pictures: int) -> list[int]:
    """The slots asked, picture by picture, all at the same time."""
    looks = looks_of(fleet, ttft_s=ttft_s)
    slots = []
    for number in range(pictures):
        view = looks.choose(picture(number), excluded=frozenset())
        assert view is not None
        slots.append(view.slot)
        looks.look(picture(number))
    await asyncio.sleep(0)
    return slots


async def test_equal_encode_workers_share_pictures_evenly(fleet: Fleet) -> None:
    for name in "abc":
        join(fleet, name, token_s=1e-3, price_per_h=1.0)
    assert sorted(await chosen(fleet, ttft_s=10.0, pictures=6)) == [0, 0, 1, 1, 2, 2]


async def test_a_cheap_encode_worker_is_preferred_while_it_is_in_time(fleet: Fleet) -> None:
    dear = join(fleet, "dear", token_s=2.5e-4, price_per_h=20.0)
    cheap = join(fleet, "cheap", token_s=1e-3, price_per_h=1.0)
    assert await chosen(fleet, ttft_s=4.0, pictures=5) == [cheap.slot] * 3 + [dear.slot] * 2
    assert await chosen(fleet, ttft_s=0.1, pictures=1) == [dear.slot]


async def test_without_prices_the_first_to_be_done_is_asked(fleet: Fleet) -> None:
    fast = join(fleet, "fast", token_s=2.5e-4, price_per_h=0.0)
    slow = join(fleet, "slow", token_s=1e-3, price_per_h=0.0)
    assert await chosen(fleet, ttft_s=10.0, pictures=4) == [fast.slot] * 4
    assert slow.slot in await chosen(fleet, ttft_s=10.0, pictures=6)


async def test_an_encoder_beside_decodes_is_used_while_it_keeps_none_of_them_waiting(fleet: Fleet) -> None:
    """ED-P where that is cheap, E-P-D where decodes would miss their objective."""
    host = join(fleet, "decode", token_s=1e-3, price_per_h=4.0, role=Role.DECODE)
    eye = join(fleet, "decode-eye", token_s=2.5e-4, price_per_h=4.0, beside="decode")
    apart = join(fleet, "apart", token_s=1e-3, price_per_h=1.5)
    assert await chosen(fleet, ttft_s=10.0, pictures=1) == [eye.slot]
    busy = WorkerLoad(lifecycle=Lifecycle.READY, free_blocks=100, running_sequences=20)
    fleet.beat(host, busy, now_s=0.0)
    assert await chosen(fleet, ttft_s=10.0, pictures=1) == [apart.slot]


def test_encode_workers_teach_the_curve_of_their_own_half_alone(fleet: Fleet) -> None:
    join(fleet, "a", token_s=1e-3, price_per_h=1.0)
    assert [key.model for key in fleet.capacity.classes()] == ["m (vision)"]
