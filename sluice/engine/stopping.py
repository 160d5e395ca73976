"""When a sequence ends, and which tokens it may not choose yet. Pure; no tensors.

Stop *strings* are the router's: it sees text. Next: `sampler.py`, `engine.py`.
"""

from sluice.domain.role import FinishReason
from sluice.domain.sampling import SamplingParams


def stop_tokens(sampling: SamplingParams, *, eos_token_ids: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens that end the sequence when they are chosen."""
    return sampling.stop_token_ids if sampling.ignore_eos else eos_token_ids + sampling.stop_token_ids


def barred_tokens(sampling: SamplingParams, *, output_tokens: int, eos_token_ids: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens that may not be chosen as output number `output_tokens`: those that would end it before min_tokens."""
    return stop_tokens(sampling, eos_token_ids=eos_token_ids) if output_tokens < sampling.min_tokens else ()


def finish_reason(
    sampling: SamplingParams, *, token: int, output_tokens: int, tokens_left: int, eos_token_ids: tuple[int, ...]
) -> FinishReason | None:
    """Why `token` is the last, or None. `output_tokens` counts it; `tokens_left` may still follow it."""
    if token in stop_tokens(sampling, eos_token_ids=eos_token_ids):
        return FinishReason.STOP
    if output_tokens >= sampling.max_tokens or tokens_left <= 0:
        return FinishReason.LENGTH
    return None
