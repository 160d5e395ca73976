"""Is a sequence fit for this model? Checked at the door, because one bad token id fails a whole batch.

Sizes and limits are the scheduler's to check; the ranges of sampling settings are checked where
they are built. Next: `engine.py`, the only user.
"""

from collections.abc import Sequence

import numpy as np

from sluice.domain.block_hash import HASH_UNIT_TOKENS
from sluice.domain.ids import BlockHash
from sluice.domain.image import image_tokens
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import EmbeddingRows
from sluice.errors import InvalidRequestError


def check_tokens(state: SequenceState, *, vocabulary: int) -> None:
    """Raise InvalidRequestError if a token id, or a logit bias, is not of the model's vocabulary."""
    tokens = np.array(state.tokens, dtype=np.int64)
    _check_spans(state)
    for span in state.images:
        tokens[span.first : span.end] = 0
    wrong = tokens[(tokens < 0) | (tokens >= vocabulary)]
    remedy = f"use token ids from 0 to {vocabulary - 1}"
    if len(wrong):
        raise InvalidRequestError(field="prompt", problem=f"holds token {wrong[0]}", remedy=remedy)
    for token, _ in state.sampling.logit_bias:
        if token >= vocabulary:
            raise InvalidRequestError(field="logit_bias", problem=f"names token {token}", remedy=remedy)


def check_reads_images(state: SequenceState, *, token_bytes: int) -> None:
    """Raise InvalidRequestError if there are images and an image token has no bytes: the model reads text alone."""
    if state.images and not token_bytes:
        raise InvalidRequestError(field="images", problem="are not read by this model", remedy="send text alone")


def check_embeddings(state: SequenceState, digest: bytes, embeddings: EmbeddingRows) -> None:
    """Raise InvalidRequestError unless there is a row for every token of the image in the prompt."""
    needed = max((span.offset + span.tokens for span in state.images if span.digest == digest), default=0)
    if embeddings.tokens < needed:
        problem = f"{digest.hex()} has {embeddings.tokens} embeddings for {needed} tokens"
        raise InvalidRequestError(field="images", problem=problem, remedy="encode the picture that the prompt shows")


def _check_spans(state: SequenceState) -> None:
    """Spans lie in the prompt, in order, over the tokens that name their image."""
    at = 0
    for span in state.images:
        named = image_tokens(span.digest, span.tokens, offset=span.offset)
        is_inside = at <= span.first and span.end <= state.prompt_tokens and span.tokens > 0
        if not is_inside or list(state.tokens[span.first : span.end]) != named:
            problem = f"tokens {span.first} to {span.end} do not stand for image {span.digest.hex()}"
            raise InvalidRequestError(field="images", problem=problem, remedy="lay out the prompt with its images")
        at = span.end


def check_unit_hashes(unit_hashes: Sequence[BlockHash], *, tokens: int) -> None:
    """Raise InvalidRequestError if there are more hashes than full units of `tokens` tokens.

    Fewer are fine: the chain is continued from the tokens themselves.
    """
    full = tokens // HASH_UNIT_TOKENS
    if len(unit_hashes) > full:
        remedy = f"send at most {full} for {tokens} tokens"
        raise InvalidRequestError(field="unit_hashes", problem=f"has {len(unit_hashes)} entries", remedy=remedy)
