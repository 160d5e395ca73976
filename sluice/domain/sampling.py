"""How tokens are chosen: one validated value that travels with the sequence.

Every field is checked on construction, so whoever holds a SamplingParams may trust it.
Stop *strings* are not here: the router owns text (docs/adr/0003-text-lives-in-the-router.md).
Next: `engine/sampler.py`.
"""

import math
from dataclasses import dataclass
from typing import Final

from sluice.errors import InvalidRequestError

TOP_LOGPROBS_MAX: Final = 20
LOGIT_BIAS_ENTRIES_MAX: Final = 1024
STOP_TOKENS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling settings of one sequence.

    Random numbers are drawn from a counter keyed by (`seed`, token index), so a replayed or
    moved sequence draws the same ones. Raises InvalidRequestError naming the first bad field.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0  # 0: all tokens
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0  # unsigned 64 bits
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None  # None: no log-probabilities; 0: of the chosen token only

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, low=0.0, high=100.0)
        _check_number("top_p", self.top_p, low=0.0, high=1.0)
        if self.top_p == 0.0:
            raise InvalidRequestError(field="top_p", problem="is 0", remedy="send a value above 0 and at most 1")
        _check_number("min_p", self.min_p, low=0.0, high=1.0)
        _check_number("repetition_penalty", self.repetition_penalty, low=0.01, high=100.0)
        _check_number("presence_penalty", self.presence_penalty, low=-2.0, high=2.0)
        _check_number("frequency_penalty", self.frequency_penalty, low=-2.0, high=2.0)
        _check_integer("max_tokens", self.max_tokens, low=1, high=2**31 - 1)
        _check_integer("min_tokens", self.min_tokens, low=0, high=self.max_tokens)
        _check_integer("top_k", self.top_k, low=0, high=2**31 - 1)
        _check_integer("seed", self.seed, low=0, high=2**64 - 1)
        if self.top_logprobs is not None:
            _check_integer("top_logprobs", self.top_logprobs, low=0, high=TOP_LOGPROBS_MAX)
        _check_count("logit_bias", len(self.logit_bias), high=LOGIT_BIAS_ENTRIES_MAX)
        _check_count("stop_token_ids", len(self.stop_token_ids), high=STOP_TOKENS_MAX)
        for token, bias in self.logit_bias:
            _check_integer("logit_bias", token, low=0, high=2**31 - 1)
            _check_number("logit_bias", bias, low=-100.0, high=100.0)

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        """Whether earlier tokens change the odds of later ones."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


def _check_number(field: str, value: float, *, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        remedy = f"send a number from {low:g} to {high:g}"
        raise InvalidRequestError(field=field, problem=f"is {value:g}", remedy=remedy)


def _check_integer(field: str, value: int, *, low: int, high: int) -> None:
    if not low <= value <= high:
        remedy = f"send an integer from {low} to {high}"
        raise InvalidRequestError(field=field, problem=f"is {value}", remedy=remedy)


def _check_count(field: str, count: int, *, high: int) -> None:
    if count > high:
        raise InvalidRequestError(field=field, problem=f"has {count} entries", remedy=f"send at most {high}")
