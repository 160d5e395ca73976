"""Every byte of a prompt's KV is pushed exactly once, as early as it can be."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.worker.push_progress import PushProgress, Stretch


@given(st.data())
def test_every_token_of_every_group_is_taken_exactly_once(data: st.DataObject) -> None:
    groups, prompt, block = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 200)), 16
    cached = data.draw(st.integers(0, prompt // block)) * block
    progress = PushProgress(groups=groups, total_tokens=prompt, block_tokens=block)
    progress.start_over(cached_tokens=cached)
    taken: dict[int, list[Stretch]] = {group: [] for group in range(groups)}
    for group, end in data.draw(st.lists(st.tuples(st.integers(0, groups - 1), st.integers(0, prompt)), max_size=20)):
        progress.wrote(group, end=end)
        for stretch in progress.take(end_block_tokens=block):
            taken[stretch.group].append(stretch)
    progress.wrote_all(end=prompt)
    for stretch in progress.take(end_block_tokens=block):
        taken[stretch.group].append(stretch)
    assert progress.is_all_taken
    assert progress.take(end_block_tokens=block) == []
    for stretches in taken.values():
        at = cached
        for stretch in stretches:
            assert stretch.first == at
            at = stretch.end
        assert at == (-(-prompt // block) * block if prompt > cached else cached)


def test_unfinished_blocks_wait_for_the_rest() -> None:
    progress = PushProgress(groups=1, total_tokens=40, block_tokens=16)
    progress.start_over(cached_tokens=0)
    progress.wrote(0, end=20)
    assert progress.take(end_block_tokens=16) == [Stretch(0, 0, 16)]
    progress.wrote(0, end=40)
    assert progress.take(end_block_tokens=16) == [Stretch(0, 16, 48)]


def test_a_new_receiver_gets_everything_again() -> None:
    progress = PushProgress(groups=2, total_tokens=32, block_tokens=16)
    progress.start_over(cached_tokens=16)
    progress.wrote_all(end=32)
    assert len(progress.take(end_block_tokens=16)) == 2
    progress.start_over(cached_tokens=0)
    assert not progress.is_all_taken
    assert progress.take(end_block_tokens=16) == [Stretch(0, 0, 32), Stretch(1, 0, 32)]


def test_a_growing_sequence_is_pushed_block_by_block_and_its_tail_when_it_is_sealed() -> None:
    progress = PushProgress(groups=1, block_tokens=16)
    progress.start_over(cached_tokens=0)
    progress.wrote_all(end=40)
    assert progress.take(end_block_tokens=16) == [Stretch(0, 0, 32)]
    assert progress.left_tokens == 8
    assert not progress.is_all_taken
    progress.seal(end=45)
    assert progress.take(end_block_tokens=16) == [Stretch(0, 32, 48)]
    assert progress.is_all_taken
