"""A lease lasts as long as it was said to, and every lease ends exactly once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import OverloadedError
from sluice.kv_transfer.lease import LeaseTable


def test_a_lease_lives_until_its_end_and_not_longer() -> None:
    leases = LeaseTable[str](lease_s=30.0)
    leases.grant("a", now_s=100.0)
    assert leases.is_live("a", now_s=129.9)
    assert leases.expire(now_s=129.9) == ()
    assert not leases.is_live("a", now_s=130.0)
    assert leases.expire(now_s=130.0) == ("a",)
    assert leases.expire(now_s=200.0) == ()


def test_a_batch_of_renewals_names_the_leases_that_are_gone() -> None:
    leases = LeaseTable[str](lease_s=10.0, extension_s=20.0)
    leases.grant("a", now_s=0.0)
    leases.grant("b", now_s=5.0)
    assert leases.renew(["a", "b", "never"], now_s=11.0) == ("a", "never")
    assert leases.expire(now_s=15.0) == ("a",)
    assert leases.is_live("b", now_s=30.9)


def test_a_renewal_never_shortens_a_lease() -> None:
    leases = LeaseTable[str](lease_s=30.0, extension_s=5.0)
    leases.grant("a", now_s=0.0)
    leases.renew(["a"], now_s=1.0)
    assert leases.is_live("a", now_s=29.9)


def test_a_released_lease_is_not_expired_again() -> None:
    leases = LeaseTable[str]()
    leases.grant("a", now_s=0.0)
    assert leases.release("a")
    assert not leases.release("a")
    assert leases.expire(now_s=1e9) == ()


def test_too_many_leases_are_refused_and_the_others_stand() -> None:
    leases = LeaseTable[int](leases_max=2)
    leases.grant(1, now_s=0.0)
    leases.grant(2, now_s=0.0)
    with pytest.raises(OverloadedError, match="2 leases"):
        leases.grant(3, now_s=0.0)
    assert len(leases) == 2
    assert 3 not in leases


@given(
    st.lists(st.tuples(st.sampled_from(["grant", "renew", "release", "expire"]), st.integers(0, 4), st.floats(0, 20)))
)
def test_every_granted_lease_ends_exactly_once(history: list[tuple[str, int, float]]) -> None:
    leases = LeaseTable[int]()
    granted, ended, now_s = 0, 0, 0.0
    for action, key, wait_s in history:
        now_s += wait_s
        if action == "grant" and key not in leases:
            leases.grant(key, now_s=now_s)
            granted += 1
        elif action == "renew":
            leases.renew([key], now_s=now_s)
        elif action == "release":
            ended += leases.release(key)
        elif action == "expire":
            ended += len(leases.expire(now_s=now_s))
    assert granted == ended + len(leases)
