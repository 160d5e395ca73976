"""Is a sequence fit for this model? Checked at the door, because one bad token id fails a whole batch.

Sizes and limits are the scheduler's to check; the ranges of sampling settings are checked where
they are built. Next: `engine.py`, the only user.
"""

from collections.abc import Sequence

import numpy as np

from sluice.domain.block_hash import HASH_UNIT_TOKENS
from sluice.domain.ids import BlockHash
from sluice.domain.sequence import SequenceState
from sluice.errors import InvalidRequestError


def check_tokens(state: SequenceState, *, vocabulary: int) -> None:
    """Raise InvalidRequestError if a token id, or a logit bias, is not of the model's vocabulary."""
    tokens = np.array(state.tokens, dtype=np.int64)
    wrong = tokens[(tokens < 0) | (tokens >= vocabulary)]
    remedy = f"use token ids from 0 to {vocabulary - 1}"
    if len(wrong):
        raise InvalidRequestError(field="prompt", problem=f"holds token {wrong[0]}", remedy=remedy)
    for token, _ in state.sampling.logit_bias:
        if token >= vocabulary:
            raise InvalidRequestError(field="logit_bias", problem=f"names token {token}", remedy=remedy)


def check_unit_hashes(unit_hashes: Sequence[BlockHash], *, tokens: int) -> None:
    """Raise InvalidRequestError if there are more hashes than full units of `tokens` tokens.

    Fewer are fine: the chain is continued from the tokens themselves.
    """
    full = tokens // HASH_UNIT_TOKENS
    if len(unit_hashes) > full:
        remedy = f"send at most {full} for {tokens} tokens"
        raise InvalidRequestError(field="unit_hashes", problem=f"has {len(unit_hashes)} entries", remedy=remedy)
