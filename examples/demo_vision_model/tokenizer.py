"""Builds the vision demo's tokenizer: one token per word with or without a space before it, digit, mark or byte.

The vocabulary is fixed, not learnt: special tokens, the 256 bytes and the words of questions.py. Any other
text falls apart into bytes and comes back whole. `<image>` stands for one picture in the chat template's
output; whoever serves the model replaces it by as many as the picture has embeddings. Read next: train.py.
"""

from __future__ import annotations

from pathlib import Path

import questions
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sluice.engine import piece_tokenizer

PAD, USER, ASSISTANT, SYSTEM, IMAGE = "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<image>"
SPECIALS = (PAD, questions.END, SYSTEM, USER, ASSISTANT, IMAGE)
PIECES = r"[0-9]| ?\p{L}+|[^0-9\p{L}]"
POSITIONS_MAX = 4096

CHAT_TEMPLATE = """\
{%- set marks = {'system': '<|system|>', 'developer': '<|system|>', 'user': '<|user|>',
                 'tool': '<|user|>', 'assistant': '<|assistant|>'} -%}
{%- set seen = namespace(pictures=0) -%}
{%- for message in messages -%}
  {%- if message['role'] not in marks -%}
    {{- raise_exception('unknown role: ' + message['role']) -}}
  {%- endif -%}
  {{- marks[message['role']] -}}
  {%- if message['content'] is string -%}
    {{- message['content'] -}}
  {%- elif message['content'] -%}
    {%- for part in message['content'] if part['type'] in ['image', 'image_url'] -%}
      {%- set seen.pictures = seen.pictures + 1 -%}
      {{- seen.pictures | string + '<image>' -}}
    {%- endfor -%}
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
        end=questions.END,
        chat_template=CHAT_TEMPLATE,
        positions_max=POSITIONS_MAX,
    )


def vocabulary() -> dict[str, int]:
    """Token to id: specials first, then bytes, words, words after a space; ids have no gaps."""
    tokens = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words = sorted(set(questions.WORDS))
    tokens += [word for word in words if len(word) > 1]
    tokens += ["\u0120" + word for word in words]
    return {token: index for index, token in enumerate(tokens)}


def save(out: Path) -> PreTrainedTokenizerFast:
    """Writes the tokenizer's files under `out` and returns it."""
    fast = build()
    piece_tokenizer.save(fast, out)
    return fast
