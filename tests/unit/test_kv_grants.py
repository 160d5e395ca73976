"""A grant covers its ranges and not a byte more, whatever numbers a sender makes up."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import OverloadedError
from sluice.kv_transfer import grants
from sluice.kv_transfer.grants import GrantTable
from sluice.kv_transfer.quarantine import Quarantine
from sluice.kv_transfer.transport import Descriptors

SIZE = 60
pieces = st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 9)), max_size=6)


def columns(ranges: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.asarray(ranges, dtype=np.int64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()


def table_for(ranges: list[tuple[int, int]]) -> GrantTable:
    table = GrantTable()
    start, length = columns(ranges)
    table.allow(lease_s=60.0, grant=b"g", ranges=Descriptors(start, start, length))
    return table


@given(pieces, pieces)
def test_exactly_the_ranges_inside_are_covered(allowed: list[tuple[int, int]], asked: list[tuple[int, int]]) -> None:
    grant = table_for(allowed).find(b"g")
    assert grant
    bytes_allowed = {byte for start, length in allowed for byte in range(start, start + length)}
    expected = all(set(range(start, start + length)) <= bytes_allowed for start, length in asked)
    assert grant.covers(*columns(asked)) == expected


@pytest.mark.parametrize(
    "asked", [(-1, 1), (0, 0), (0, -5), (-(2**63), 2**63 - 1), (2**63 - 1, 2**63 - 1), (1, 2**63 - 1), (40, 1)]
)
def test_hostile_numbers_are_not_covered(asked: tuple[int, int]) -> None:
    grant = table_for([(0, 40)]).find(b"g")
    assert grant
    assert not grant.covers(*columns([asked]))


def test_a_revoked_grant_is_not_found_and_its_holder_sees_it_closed() -> None:
    table = table_for([(0, 40)])
    grant = table.find(b"g")
    assert grant
    assert table.revoke(b"g")
    assert table.find(b"g") is None
    assert not grant.is_open
    assert table.revoke(b"g")


def test_revoking_waits_for_the_piece_being_written() -> None:
    table = table_for([(0, 40)])
    grant = table.find(b"g")
    assert grant
    grant.lock.acquire()
    revoker = threading.Thread(target=table.revoke, args=(b"g",))
    revoker.start()
    revoker.join(timeout=0.05)
    assert revoker.is_alive()
    assert grant.is_open
    grant.lock.release()
    revoker.join(timeout=5)
    assert not grant.is_open


def test_too_many_grants_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "GRANTS_MAX", 1)
    table = table_for([(0, 1)])
    with pytest.raises(OverloadedError, match="grants are in use"):
        table.allow(lease_s=60.0, grant=b"other", ranges=Descriptors(*columns([(0, 1)]), np.asarray([1])))


def test_quarantine_counts_what_may_still_be_touched() -> None:
    quarantine = Quarantine(region_bytes=1000)
    quarantine.grant_opened(b"a", total_bytes=60)
    assert quarantine.total_bytes == 0
    quarantine.grant_revoked(b"a")
    quarantine.grant_revoked(b"a")
    quarantine.push_abandoned(1, total_bytes=40)
    assert quarantine.total_bytes == 100
    assert not quarantine.is_over_bound
    quarantine.push_abandoned(2, total_bytes=1)
    assert quarantine.is_over_bound
    quarantine.push_ended(1)
    quarantine.push_ended(2)
    quarantine.grant_ended(b"a")
    quarantine.grant_revoked(b"never opened")
    assert quarantine.total_bytes == 0
