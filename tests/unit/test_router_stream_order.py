"""Tokens leave in order, each once, whatever way they arrive."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.ids import Epoch
from sluice.router.stream_order import HELD_TOKENS_MAX, StreamOrder


@given(order=st.permutations(range(12)), repeats=st.lists(st.integers(0, 11), max_size=12))
def test_any_interleaving_with_duplicates_gives_each_token_once(order: list[int], repeats: list[int]) -> None:
    stream: StreamOrder[int] = StreamOrder(Epoch(0))
    arrivals = [value for pair in zip(order, [*repeats, *order], strict=False) for value in pair]
    out = [row for index in arrivals for row in stream.accept(epoch=0, index=index, row=index)]
    assert out == list(range(12))
    assert stream.next_index == 12


@given(data=st.data())
def test_after_a_new_epoch_older_ones_are_silent(data: st.DataObject) -> None:
    stream: StreamOrder[tuple[int, int]] = StreamOrder(Epoch(0))
    out: list[tuple[int, int]] = []
    for epoch in range(3):
        start = len(out)
        if epoch:
            stream.grant(Epoch(epoch), next_index=start)
        count = data.draw(st.integers(0, 5))
        rows = [(e, i) for e in range(epoch + 1) for i in range(start + count + 2)]
        for e, i in data.draw(st.permutations(rows)):
            if e < epoch or i < start + count:
                out.extend(stream.accept(epoch=e, index=i, row=(e, i)))
        assert out[start:] == [(epoch, i) for i in range(start, start + count)]


def test_the_decode_workers_token_waits_for_the_prefill_workers() -> None:
    stream: StreamOrder[str] = StreamOrder(Epoch(0))
    assert list(stream.accept(epoch=0, index=1, row="second")) == []
    assert list(stream.accept(epoch=0, index=0, row="first")) == ["first", "second"]


def test_what_waits_behind_a_gap_is_bounded() -> None:
    stream: StreamOrder[int] = StreamOrder(Epoch(0))
    for index in range(1, HELD_TOKENS_MAX + 100):
        assert not stream.accept(epoch=0, index=index, row=index)
    assert stream.is_overfull
    stream.grant(Epoch(1), next_index=0)
    assert not stream.is_overfull
