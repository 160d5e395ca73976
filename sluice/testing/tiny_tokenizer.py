"""Makes a model directory with a text side only: a small byte-level tokenizer, settings, a chat template.

For tests and benchmarks of the router, which never reads weights. The vocabulary is trained on
a fixed text, so every run makes the same tokenizer.
"""

from pathlib import Path
from typing import Final

import orjson
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

CONTEXT_TOKENS: Final = 8192
CHAT_TEMPLATE: Final = (
    "{% for m in messages %}"
    "{% if m.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('unknown role ' + m.role) }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL: Final = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
_TEXT: Final = (
    "A river finds the sea by many small decisions, and every lock keeper along the way keeps an honest book.",
    "What goes in must come out; what waits must be counted; what moves must never be in two places at once.",
    "The quick brown fox jumps over the lazy dog while seventeen zebras watch from 42 quiet hills.",
)


def make_model_directory(directory: Path) -> Path:
    """Write tokenizer.json and its companions into `directory`; returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": CONTEXT_TOKENS}
    settings = {"eos_token": "<|end|>", "chat_template": CHAT_TEMPLATE}
    (directory / "config.json").write_bytes(orjson.dumps(config))
    (directory / "tokenizer_config.json").write_bytes(orjson.dumps(settings))
    return directory
