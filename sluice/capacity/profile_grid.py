"""Which loads an engine is driven through to learn its step times: prompts by length, batches by size and context.

A trial is a few sequences that arrive together; each of their steps is a sample. Together they hold every term
of the curve apart: long prompts alone, wide batches over short and long contexts, and prompts beside decodes.
Pure. Next: `cli/engine_drive.py`, which runs trials; `curve_fit.py`, which uses the samples.
"""

from dataclasses import dataclass
from typing import Final

PROMPTS: Final = (16, 64, 128, 256, 512, 1024, 2048, 4096)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS: Final = (32, 256, 1024, 3072)
DECODES_PER_TRIAL: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """`sequences` prompts of `prompt_tokens` tokens at once; each goes on for `outputs` tokens."""

    sequences: int
    prompt_tokens: int
    outputs: int

    @property
    def kv_tokens(self) -> int:
        """KV it needs at its end."""
        return self.sequences * (self.prompt_tokens + self.outputs)


def trials(*, kv_tokens_max: int, sequence_tokens_max: int, batch_sequences_max: int) -> list[Trial]:
    """The trials that fit an engine of these limits, short ones first."""
    wanted = [Trial(sequences=1, prompt_tokens=prompt, outputs=1) for prompt in PROMPTS]
    wanted += [
        Trial(sequences=batch, prompt_tokens=context, outputs=DECODES_PER_TRIAL)
        for batch in BATCHES
        for context in CONTEXTS
    ]
    fitting = [
        trial
        for trial in wanted
        if trial.sequences <= batch_sequences_max
        and trial.prompt_tokens + trial.outputs < sequence_tokens_max
        and trial.kv_tokens <= 0.9 * kv_tokens_max
    ]
    return sorted(fitting, key=lambda trial: trial.kv_tokens)
