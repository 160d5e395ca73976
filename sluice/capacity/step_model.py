"""How long one engine step takes, given what is in it: the one question every prediction asks.

A model answers for one replica: a GPU class, a tensor-parallel degree, a language model. Linear
curves, tables of measured operators and rooflines all answer it, so whoever decides or simulates
knows only this file. Pure. Next: `step_curve.py`.
"""

from typing import Final, NamedTuple, Protocol


class StepShape(NamedTuple):
    """The work in one step, summed over its sequences."""

    prefill_tokens: int = 0  # prompt tokens computed
    prefill_pairs: float = 0.0  # query-key pairs of those: tokens * (context before + (tokens + 1) / 2) per chunk
    prefills: int = 0  # chunks
    decodes: int = 0  # sequences that decode one token
    context_tokens: int = 0  # attended over by the decodes, summed


EMPTY: Final = StepShape()


class StepModel(Protocol):
    """Step times of one replica."""

    def step_s(self, shape: StepShape) -> float:
        """Seconds one step of this shape takes; 0 for an empty one."""
        ...


def chunk_pairs(tokens: int, *, context_tokens: int) -> float:
    """Query-key pairs of one chunk of `tokens` tokens after `context_tokens` tokens."""
    return tokens * (context_tokens + (tokens + 1) / 2)


def prefill_s(model: StepModel, tokens: int, *, context_tokens: int = 0, step_tokens: int = 8192) -> float:
    """Seconds to prefill `tokens` tokens on an idle replica, in chunks of at most `step_tokens`."""
    total_s = 0.0
    done = 0
    while done < tokens:
        chunk = min(step_tokens, tokens - done)
        pairs = chunk_pairs(chunk, context_tokens=context_tokens + done)
        total_s += model.step_s(StepShape(prefill_tokens=chunk, prefill_pairs=pairs, prefills=1))
        done += chunk
    return total_s


def decode_s(model: StepModel, *, sequences: int, context_tokens: int, steps: int) -> float:
    """Seconds `steps` pure decode steps take, from `context_tokens` summed over `sequences` sequences on.

    Exact where step time is linear in context: the middle step stands for all.
    """
    middle = context_tokens + sequences * (steps - 1) // 2
    return steps * model.step_s(StepShape(decodes=sequences, context_tokens=middle))
