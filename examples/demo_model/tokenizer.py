"""Builds the demo model's tokenizer: one token per number, word, mark or stray byte.

The vocabulary is fixed, not learnt: five special tokens, the 256 bytes, the numbers
10..999 (the digits are bytes already) and the words of tasks.py. Text is cut into runs
of at most three digits, runs of letters, and single other characters; a piece that is
in the vocabulary is one token, any other falls apart into its bytes. So every text has
an encoding and decodes to itself.

There are no merges: `ignore_merges` makes the byte-pair model look whole pieces up.
Read next: train.py.
"""

from __future__ import annotations

from pathlib import Path

import tasks
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sluice.engine import piece_tokenizer

PAD, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIALS = (PAD, tasks.END, SYSTEM, USER, ASSISTANT)
PIECES = r"[0-9]{1,3}|\p{L}+|[^0-9\p{L}]"
POSITIONS_MAX = 4096

CHAT_TEMPLATE = """\
{%- set marks = {'system': '<|system|>', 'developer': '<|system|>', 'user': '<|user|>',
                 'tool': '<|user|>', 'assistant': '<|assistant|>'} -%}
{%- for message in messages -%}
  {%- if message['role'] not in marks -%}
    {{- raise_exception('unknown role: ' + message['role']) -}}
  {%- endif -%}
  {{- marks[message['role']] -}}
  {%- if message['content'] is string -%}
    {{- message['content'] -}}
  {%- elif message['content'] -%}
    {%- for part in message['content'] if part['type'] == 'text' -%}
      {{- part['text'] -}}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def build() -> PreTrainedTokenizerFast:
    """The tokenizer, ready to be saved; it adds no token of its own to a text."""
    return piece_tokenizer.build(
        vocabulary(),
        specials=SPECIALS,
        pieces=PIECES,
        pad=PAD,
        end=tasks.END,
        chat_template=CHAT_TEMPLATE,
        positions_max=POSITIONS_MAX,
    )


def vocabulary() -> dict[str, int]:
    """Token to id: specials first, then bytes, numbers, words; ids have no gaps."""
    tokens = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [str(number) for number in range(10, tasks.NUMBERS)]
    tokens += [word for word in tasks.VOCABULARY if len(word) > 1]
    return {token: index for index, token in enumerate(tokens)}


def save(out: Path) -> PreTrainedTokenizerFast:
    """Writes the tokenizer's files under `out` and returns it."""
    fast = build()
    piece_tokenizer.save(fast, out)
    return fast
