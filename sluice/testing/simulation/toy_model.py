"""The emulated model in a size that is checked by hand, and what it answers when nothing goes wrong.

Next: `toy_engine.py`; `engine/emulated_model.py` is the model.
"""

from collections.abc import Sequence
from typing import Final

from sluice.domain.kv import KvGeometry
from sluice.domain.role import FinishReason
from sluice.domain.sampling import SamplingParams
from sluice.engine import emulated_model
from sluice.engine.contract import ModelFacts
from sluice.engine.emulated_model import TokenRule
from sluice.engine.stopping import finish_reason
from sluice.testing.simulation import toy_sight

VOCABULARY: Final = 500
TOKEN_MIN: Final = 10  # below are the tokenizer's special tokens
LAYERS: Final = 2
EOS: Final = (TOKEN_MIN,)
RULE: Final = TokenRule(vocabulary=VOCABULARY, token_min=TOKEN_MIN + 1, eos_token_ids=EOS)
FACTS: Final = ModelFacts(
    name="toy",
    fingerprint="toy",
    vocabulary=VOCABULARY,
    eos_token_ids=EOS,
    layers=LAYERS,
    kv_heads=1,
    head_dim=1,
    dtype="float32",
    dtype_bytes=4,
    sequence_tokens_max=4096,
    device="cpu",
    image_token_bytes=toy_sight.TOKEN_BYTES,
)


def geometry(*, blocks: int, block_tokens: int) -> KvGeometry:
    """A pool of the toy model."""
    return emulated_model.geometry(layers=LAYERS, blocks=blocks, block_tokens=block_tokens)


def answer(prompt: Sequence[int], sampling: SamplingParams) -> list[int]:
    """What the model says, all of it: no faults, no workers."""
    tokens, marks = list(prompt), list[int]()
    while True:
        emulated_model.extend_marks(marks, tokens, end=len(tokens))
        count = len(tokens) - len(prompt)
        token = emulated_model.next_token(marks[-1], 0, sampling=sampling, output_tokens=count, rule=RULE)
        tokens.append(token)
        if end_of(sampling, token=token, output_tokens=count + 1) is not None:
            return tokens[len(prompt) :]


def end_of(sampling: SamplingParams, *, token: int, output_tokens: int) -> FinishReason | None:
    """Why `token` is the last one, or None; no sequence here reaches a worker's length limit."""
    return finish_reason(sampling, token=token, output_tokens=output_tokens, tokens_left=1, eos_token_ids=EOS)
