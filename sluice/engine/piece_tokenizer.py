"""Builds a tokenizer whose vocabulary is fixed, not learnt: pieces of text that are in it, bytes for all others.

There are no merges: `ignore_merges` makes the byte-pair model look whole pieces up. For the scripts that make
the demo models, which say what the pieces are.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def build(
    vocabulary: Mapping[str, int],
    *,
    specials: Sequence[str],
    pieces: str,
    pad: str,
    end: str,
    chat_template: str,
    positions_max: int,
) -> PreTrainedTokenizerFast:
    """The tokenizer, ready for `save`; it adds no token of its own to a text. `pieces` is the regex of one piece."""
    tokenizer = Tokenizer(models.BPE(vocab=dict(vocabulary), merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers declares no types here
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=end,
        clean_up_tokenization_spaces=False,
        model_max_length=positions_max,
    )
    fast.chat_template = chat_template
    return fast


def save(fast: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the tokenizer's files under `out`."""
    fast.save_pretrained(out)
    config = out / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name every release of transformers knows
    settings.pop("backend", None)
    config.write_text(json.dumps(settings, indent=2) + "\n")
