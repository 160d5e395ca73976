"""Small decisions of the engine: random numbers, stopping, groups of attention, checks at the door."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.role import FinishReason
from sluice.domain.sampling import SamplingParams
from sluice.engine.attention_groups import cut
from sluice.engine.counter_random import philox, uniforms
from sluice.engine.request_checks import check_tokens, check_unit_hashes
from sluice.engine.stopping import barred_tokens, finish_reason
from sluice.errors import InvalidRequestError
from sluice.testing.sequence_states import sequence_state


def words(*values: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([value], dtype=np.uint64) for value in values)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert tuple(int(word[0]) for word in philox(words(*counter), words(*key))) == expected


def test_a_number_depends_on_its_seed_and_index_alone() -> None:
    seeds = np.array([5, 5, 2**63, 7], dtype=np.uint64)
    indices = np.array([0, 1, 1, 1], dtype=np.uint64)
    together = uniforms(seeds, indices)
    alone = [uniforms(seeds[at : at + 1], indices[at : at + 1])[0] for at in range(4)]
    assert together.tolist() == alone
    assert len(set(alone)) == 4


def test_numbers_are_uniform_over_indices_and_over_seeds() -> None:
    """Chi-square over 100 cells at 0.1 %: 99 degrees of freedom, critical value 148.2."""
    many = np.arange(100_000, dtype=np.uint64)
    for numbers in (uniforms(np.full_like(many, 3), many), uniforms(many, np.full_like(many, 3))):
        assert 0.0 <= numbers.min() <= numbers.max() < 1.0
        observed = np.histogram(numbers, bins=100, range=(0.0, 1.0))[0]
        assert ((observed - 1000.0) ** 2 / 1000.0).sum() < 148.2


def finish(token: int, *, output_tokens: int = 1, tokens_left: int = 5, **settings: object) -> FinishReason | None:
    sampling = SamplingParams(**{"max_tokens": 10, "stop_token_ids": (4,), **settings})  # type: ignore[arg-type]
    return finish_reason(
        sampling, token=token, output_tokens=output_tokens, tokens_left=tokens_left, eos_token_ids=(2, 3)
    )


def test_a_sequence_ends_at_end_of_text_stop_tokens_its_limit_and_the_engines() -> None:
    assert finish(9) is None
    assert finish(3) is FinishReason.STOP
    assert finish(4) is FinishReason.STOP
    assert finish(9, output_tokens=10) is FinishReason.LENGTH
    assert finish(9, tokens_left=0) is FinishReason.LENGTH
    assert finish(4, output_tokens=10) is FinishReason.STOP


def test_ignored_end_of_text_ends_nothing_and_is_never_barred() -> None:
    assert finish(3, ignore_eos=True) is None
    assert finish(4, ignore_eos=True) is FinishReason.STOP
    sampling = SamplingParams(max_tokens=10, min_tokens=2, stop_token_ids=(4,), ignore_eos=True)
    assert barred_tokens(sampling, output_tokens=1, eos_token_ids=(2,)) == (4,)


def test_ending_tokens_are_barred_until_min_tokens() -> None:
    sampling = SamplingParams(max_tokens=10, min_tokens=2, stop_token_ids=(4,))
    assert barred_tokens(sampling, output_tokens=1, eos_token_ids=(2,)) == (2, 4)
    assert barred_tokens(sampling, output_tokens=2, eos_token_ids=(2,)) == ()


shapes = st.lists(st.tuples(st.integers(1, 64), st.integers(1, 4000)), max_size=40)


@given(shapes=shapes, call_pairs=st.integers(0, 100_000))
def test_groups_cover_every_sequence_and_pad_less_than_a_call_costs(
    shapes: list[tuple[int, int]], call_pairs: int
) -> None:
    ordered = sorted(shapes, reverse=True)
    ends = cut(ordered, call_pairs=call_pairs)
    assert ends == sorted(set(ends))
    assert (ends[-1] if ends else 0) == len(ordered)
    for first, end in pairwise([0, *ends]):
        group = ordered[first:end]
        padded = len(group) * max(queries for queries, _ in group) * max(keys for _, keys in group)
        assert padded - sum(queries * keys for queries, keys in group) <= call_pairs


def test_equal_sequences_share_one_call() -> None:
    assert cut([(1, 640)] * 64, call_pairs=0) == [64]


@pytest.mark.parametrize("tokens", [[5, 100], [5, -1]])
def test_a_token_outside_the_vocabulary_is_refused(tokens: list[int]) -> None:
    state = sequence_state(1, [1, 2])
    object.__setattr__(state, "tokens", tuple(tokens))
    with pytest.raises(InvalidRequestError, match=r"prompt: holds token .*use token ids from 0 to 99"):
        check_tokens(state, vocabulary=100)


def test_a_bias_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="logit_bias: names token 100"):
        check_tokens(sequence_state(1, [1], logit_bias=((100, 1.0),)), vocabulary=100)


def test_more_hashes_than_full_units_are_refused_and_fewer_are_not() -> None:
    hashes = sequence_state(1, list(range(40))).unit_hashes
    check_unit_hashes(hashes[:1], tokens=40)
    with pytest.raises(InvalidRequestError, match="unit_hashes"):
        check_unit_hashes(hashes, tokens=31)
