"""A language model small enough to check by hand: its KV names every token before it.

The KV of token i is a number that follows from tokens [0, i]; the next token follows from the KV
of all of them *as read from memory* and the sampling seed. Whoever decodes over a byte that is
wrong, missing or of another sequence chooses another token. Next: `toy_engine.py`.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sluice.domain.kv import KvGeometry
from sluice.domain.role import FinishReason
from sluice.domain.sampling import SamplingParams
from sluice.engine.stopping import finish_reason

Words = NDArray[np.uint32]

VOCABULARY: Final = 500
TOKEN_MIN: Final = 10  # below are the tokenizer's special tokens
LAYERS: Final = 2
EOS: Final = (TOKEN_MIN,)
_MASK: Final = 0xFFFFFFFF
_PLACES: Final = np.arange(1, 2 * LAYERS + 1, dtype=np.uint32).reshape(LAYERS, 2, 1) * np.uint32(2_654_435_761)


def geometry(*, blocks: int, block_tokens: int, group_layers: int = 1) -> KvGeometry:
    """A pool of the toy model: four bytes for each of K and V of a token and layer."""
    return KvGeometry(
        layers=LAYERS,
        group_layers=group_layers,
        heads=1,
        head_dim=1,
        block_tokens=block_tokens,
        blocks=blocks,
        dtype="float32",
        dtype_bytes=4,
    )


def extend_marks(marks: list[int], tokens: Sequence[int]) -> None:
    """Continue the running number of a sequence over those of its `tokens` that have none."""
    mark = marks[-1] if marks else 17
    for token in tokens[len(marks) :]:
        mark = (mark * 1_664_525 + token + 1_013_904_223) & _MASK
        marks.append(mark)


def kv_of(marks: Sequence[int]) -> Words:
    """The KV of tokens with these marks, [layer][K/V][token]."""
    return np.array(marks, dtype=np.uint32)[None, None, :] * np.uint32(3) + _PLACES


def next_token(kv: Words, *, seed: int, ends: bool) -> int:
    """The token after those whose KV is `kv`, [layer][K/V][token]. With `ends` one in 40 is the end of text."""
    weights = np.arange(1, kv.shape[2] + 1, dtype=np.uint32)
    mixed = int((kv * weights).sum(dtype=np.uint32)) ^ (seed * 0x9E3779B1 & _MASK)
    mixed = (mixed ^ mixed >> 15) * 0x85EBCA6B & _MASK
    mixed ^= mixed >> 13
    if ends and mixed % 40 == 0:
        return EOS[0]
    return TOKEN_MIN + 1 + mixed % (VOCABULARY - TOKEN_MIN - 1)


def answer(prompt: Sequence[int], sampling: SamplingParams) -> list[int]:
    """What the model says, all of it: no faults, no workers."""
    tokens, marks = list(prompt), list[int]()
    while True:
        extend_marks(marks, tokens)
        token = next_token(kv_of(marks), seed=sampling.seed, ends=not sampling.ignore_eos)
        tokens.append(token)
        count = len(tokens) - len(prompt)
        if end_of(sampling, token=token, output_tokens=count) is not None:
            return tokens[len(prompt) :]


def end_of(sampling: SamplingParams, *, token: int, output_tokens: int) -> FinishReason | None:
    """Why `token` is the last one, or None; no sequence here reaches a worker's length limit."""
    return finish_reason(sampling, token=token, output_tokens=output_tokens, tokens_left=1, eos_token_ids=EOS)
