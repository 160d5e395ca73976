"""How good a worker is for a sequence: numbers from 0 (worst) to 1 (best), one subject each.

Pure; cheap, because every candidate of every request is scored. Next: `picker.py`.
"""

from typing import Final

from sluice.policy.filters import RequestFacts
from sluice.policy.view import WorkerView

WAIT_TOKENS_SCALE: Final = 2048
"""Queued prompt tokens that halve a worker's prefill score: about a second of a small GPU."""


def prefix_score(facts: RequestFacts, cached_tokens: int) -> float:
    """The share of the prompt that need not be computed again."""
    return min(cached_tokens, facts.prompt_tokens) / facts.prompt_tokens


def prefill_load_score(view: WorkerView) -> float:
    """1 for an idle worker, falling with the prompt tokens and the sequences before ours."""
    waiting = view.queued_tokens / WAIT_TOKENS_SCALE
    running = view.sequences / view.info.batch_sequences_max
    return 1.0 / (1.0 + waiting + running)


def decode_load_score(view: WorkerView) -> float:
    """The room left in the batch and in the KV pool, whichever is less; queued prefills count too."""
    batch = max(0.0, 1.0 - view.sequences / (2 * view.info.batch_sequences_max))
    memory = view.free_blocks / view.info.blocks
    waiting = 1.0 + view.queued_tokens / WAIT_TOKENS_SCALE
    return min(batch, memory) / waiting
