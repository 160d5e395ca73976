"""The tcp protocol's bytes: what is written is read back, and nothing over the limits is believed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import TransferError
from sluice.kv_transfer import tcp_frames
from sluice.kv_transfer.deadline import deadline_s
from sluice.kv_transfer.tcp_frames import Cursor, Reply

NUMBERS = st.integers(0, 2**40)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=256), st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5))
def test_a_push_is_read_as_it_was_written(push: int, grant: bytes, ranges: list[tuple[int, int]]) -> None:
    table = np.asarray(ranges, dtype=np.int64).reshape(-1, 2)
    data = tcp_frames.encode_push(push=push, grant=grant, target=table[:, 0], length=table[:, 1])
    head = tcp_frames.decode_push_head(data[: tcp_frames.PUSH_HEAD.size])
    rest = data[tcp_frames.PUSH_HEAD.size :]
    assert (head.push, len(rest), head.total_bytes) == (push, head.table_bytes, table[:, 1].sum())
    assert rest[: head.grant_bytes] == grant
    target, length = tcp_frames.decode_ranges(rest[head.grant_bytes :], ranges=head.ranges)
    np.testing.assert_array_equal(np.column_stack([target, length]), table)


@given(st.lists(st.builds(Reply, push=st.integers(0, 2**64 - 1), reason=st.text(max_size=80))), st.integers(1, 9))
def test_replies_are_read_however_they_are_cut(replies: list[Reply], step: int) -> None:
    stream = b"".join(map(tcp_frames.encode_reply, replies))
    buffer, taken = bytearray(), list[Reply]()
    for start in range(0, len(stream), step):
        buffer += stream[start : start + step]
        taken += tcp_frames.take_replies(buffer)
    assert taken == replies
    assert not buffer


def test_a_reason_too_long_for_the_wire_is_cut() -> None:
    [reply] = tcp_frames.take_replies(bytearray(tcp_frames.encode_reply(Reply(push=1, reason="x" * 10_000))))
    assert reply.reason == "x" * tcp_frames.REASON_BYTES_MAX


@pytest.mark.parametrize(
    "data",
    [
        tcp_frames.HELLO_HEAD.pack(b"HTTP", 1, 3),
        tcp_frames.HELLO_HEAD.pack(b"SLKV", 9, 3),
        tcp_frames.HELLO_HEAD.pack(b"SLKV", 1, 60_000),
    ],
)
def test_a_strange_hello_is_refused(data: bytes) -> None:
    with pytest.raises(TransferError):
        tcp_frames.decode_hello_head(data)


@pytest.mark.parametrize(("grant", "ranges"), [(60_000, 1), (32, 2**32 - 1)])
def test_a_head_over_the_limits_is_refused(grant: int, ranges: int) -> None:
    with pytest.raises(TransferError, match="limits"):
        tcp_frames.decode_push_head(tcp_frames.PUSH_HEAD.pack(1, grant, ranges, 5))


def test_a_sender_keeps_to_the_limits_too() -> None:
    many = np.ones(tcp_frames.RANGES_MAX + 1, dtype=np.int64)
    with pytest.raises(TransferError, match="limits"):
        tcp_frames.encode_push(push=1, grant=b"", target=many, length=many)
    with pytest.raises(TransferError, match="limits"):
        tcp_frames.encode_push(push=1, grant=bytes(300), target=many[:1], length=many[:1])


def test_the_deadline_has_a_floor_and_grows_with_the_bytes() -> None:
    assert deadline_s(0) == 2.0
    assert deadline_s(10**9) == 52.0


@given(
    st.lists(st.tuples(st.integers(0, 80), st.integers(1, 20)), max_size=8),
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(1, 40),
)
def test_a_cursor_walks_every_byte_once_in_order(
    ranges: list[tuple[int, int]], steps: list[int], count_max: int, bytes_max: int
) -> None:
    view = memoryview(bytes(range(100)))
    table = np.asarray(ranges, dtype=np.int64).reshape(-1, 2)
    expected = b"".join(bytes(view[start : start + length]) for start, length in ranges)
    cursor, walked, turn = Cursor(view, table[:, 0], table[:, 1]), b"", 0
    while cursor.remaining_bytes:
        views = cursor.views(count_max=count_max, bytes_max=bytes_max)
        assert len(views) <= count_max
        offered = b"".join(views)
        assert 0 < len(offered) <= bytes_max
        taken = min(len(offered), steps[turn % len(steps)])
        walked += offered[:taken]
        cursor.advance(taken)
        turn += 1
    assert walked == expected
    assert cursor.views(count_max=1, bytes_max=1) == []
