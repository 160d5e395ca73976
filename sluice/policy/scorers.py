"""How good a worker is for a sequence: numbers from 0 (worst) to 1 (best), one subject each.

A cached prefix counts as the tokens it saves, on the same scale as the tokens that wait: so a
popular prefix draws requests to its holder only as long as that is the shorter way. Pure;
cheap, because every candidate of every request is scored. Next: `picker.py`.
"""

from typing import Final

from sluice.policy.filters import RequestFacts
from sluice.policy.view import WorkerView

WORK_TOKENS_SCALE: Final = 2048
"""Prompt tokens to compute that halve a worker's score: about a second of a small GPU."""

DECODE_PREFIX_WEIGHT: Final = 0.3
"""What a wholly cached prompt is worth at a decode worker: 0.6 batches of sequences more than elsewhere."""


def prefix_score(facts: RequestFacts, cached_tokens: int) -> float:
    """The share of the prompt that is there already."""
    return min(cached_tokens, facts.prompt_tokens) / facts.prompt_tokens


def prefill_score(view: WorkerView, facts: RequestFacts, cached_tokens: int) -> float:
    """1 for an idle worker and nothing to compute; falls with the tokens before and of this prompt."""
    work = view.queued_tokens + max(0, facts.prompt_tokens - cached_tokens)
    return 1.0 / (1.0 + work / WORK_TOKENS_SCALE + view.sequences / view.info.batch_sequences_max)


def decode_score(view: WorkerView) -> float:
    """The room left in the batch and in the KV pool, whichever is less; prefills that wait there count too."""
    batch = max(0.0, 1.0 - view.sequences / (2 * view.info.batch_sequences_max))
    memory = view.free_blocks / view.info.blocks
    return min(batch, memory) / (1.0 + view.queued_tokens / WORK_TOKENS_SCALE)


def whole_score(view: WorkerView, facts: RequestFacts, cached_tokens: int) -> float:
    """As decode_score, for a worker that computes what is not cached of the prompt as well."""
    return decode_score(view) / (1.0 + max(0, facts.prompt_tokens - cached_tokens) / WORK_TOKENS_SCALE)
