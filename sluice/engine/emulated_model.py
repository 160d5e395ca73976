"""A language model without weights: its KV names every token before it, and says which comes next.

The KV of token i is a number that follows from tokens [0, i]; the next token follows from that number
and the sampling seed, and from whatever in the KV *as read from memory* is not what it should be. Whoever
decodes over a byte that is wrong, missing or of another sequence chooses other tokens from then on.
Pure. Next: `emulated_runner.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sluice.domain.kv import K_AND_V, KvGeometry
from sluice.domain.sampling import SamplingParams
from sluice.engine.stopping import barred_tokens

Words = NDArray[np.uint32]

_MASK: Final = 0xFFFFFFFF
_FIRST_MARK: Final = 17
_SPREAD: Final = 0x9E3779B1


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRule:
    """Which tokens there are to choose from. One of `end_one_in` choices is the first of `eos_token_ids`."""

    vocabulary: int
    token_min: int  # below are a tokenizer's special tokens
    eos_token_ids: tuple[int, ...]
    end_one_in: int = 40


def geometry(*, layers: int, blocks: int, block_tokens: int) -> KvGeometry:
    """A pool of the emulated model: four bytes for each of K and V of a token and layer, one layer a group."""
    return KvGeometry(
        layers=layers,
        group_layers=1,
        heads=1,
        head_dim=1,
        block_tokens=block_tokens,
        blocks=blocks,
        dtype="float32",
        dtype_bytes=4,
    )


def extend_marks(marks: list[int], tokens: Sequence[int], *, end: int) -> None:
    """Continue the running number of a sequence over those of its first `end` tokens that have none."""
    mark = marks[-1] if marks else _FIRST_MARK
    for token in tokens[len(marks) : end]:
        mark = (mark * 1_664_525 + token + 1_013_904_223) & _MASK
        marks.append(mark)


def kv_of(marks: Sequence[int], *, layers: int) -> Words:
    """The KV of tokens with these marks, [token][layer][K/V]."""
    places = np.arange(1, K_AND_V * layers + 1, dtype=np.uint32).reshape(layers, K_AND_V) * np.uint32(2_654_435_761)
    return np.array(marks, dtype=np.uint32)[:, None, None] * np.uint32(3) + places


def next_token(mark: int, wrong: int, *, sampling: SamplingParams, output_tokens: int, rule: TokenRule) -> int:
    """The token after one with `mark`; `wrong` is 0 where all KV that was read is right."""
    seed = 0 if sampling.is_greedy else sampling.seed
    mixed = (mark ^ (seed * _SPREAD & _MASK) ^ wrong) & _MASK
    mixed = (mixed ^ mixed >> 15) * 0x85EBCA6B & _MASK
    mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 & _MASK
    mixed ^= mixed >> 16
    barred = barred_tokens(sampling, output_tokens=output_tokens, eos_token_ids=rule.eos_token_ids)
    if mixed % rule.end_one_in == 0 and not sampling.ignore_eos and rule.eos_token_ids[0] not in barred:
        return rule.eos_token_ids[0]
    token = rule.token_min + mixed % (rule.vocabulary - rule.token_min)
    while token in rule.eos_token_ids or token in barred:
        token = rule.token_min + (token - rule.token_min + 1) % (rule.vocabulary - rule.token_min)
    return token
