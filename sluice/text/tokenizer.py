"""A model's tokenizer: text to token ids and back, with what the model directory says about both.

Wraps the Rust `tokenizers` library, which releases the interpreter lock while it works, so
long prompts may be encoded on another thread. Immutable after `load`.
Next: `detokenizer.py` for streams of tokens, `chat_template.py` for conversations.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

import tokenizers

from sluice.errors import ModelLoadError
from sluice.text import vision_text
from sluice.text.chat_template import ChatTemplate
from sluice.text.model_files import GenerationDefaults, read_json, read_model_files
from sluice.text.vision_text import VisionText


class SpecialTokens(Enum):
    """Whether encoding adds the tokens a model expects around a text, such as a beginning-of-sequence token."""

    ADD = "add"
    LEAVE_OUT = "leave out"  # the chat template has written them itself


class Tokenizer:
    """One model's text side.

    `vocabulary` bounds the token ids a prompt may name; `context_tokens` is the model's own
    limit of prompt and output together; `template` is None when the model cannot chat, `vision` when it
    reads text alone.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        vocabulary: int,
        context_tokens: int,
        template: ChatTemplate | None,
        vision: VisionText | None = None,
        defaults: GenerationDefaults,
        has_byte_level_decoder: bool,
    ) -> None:
        self.vocabulary = vocabulary
        self.context_tokens = context_tokens
        self.template = template
        self.vision = vision
        self.defaults = defaults
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        special = {token_id for token_id, token in added.items() if token.special}
        self.byte_table = _byte_table(backend, special=special) if has_byte_level_decoder else None
        """Bytes of every token id, b"" for special ones; None unless the decoder is plain byte level."""

    def encode(self, text: str, special: SpecialTokens) -> list[int]:
        """Token ids of `text`. The text must be valid Unicode (no lone surrogates)."""
        return self._backend.encode(text, add_special_tokens=special is SpecialTokens.ADD).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens` without special tokens; ids without a token count for nothing."""
        return self._backend.decode(tokens, skip_special_tokens=True)

    def token_bytes(self, token: int) -> bytes:
        """What one token alone stands for, special tokens included, for log-probability reports."""
        if self.byte_table is not None and 0 <= token < len(self.byte_table) and self.byte_table[token]:
            return self.byte_table[token]
        return self._backend.decode([token], skip_special_tokens=False).encode()


def load(directory: Path) -> Tokenizer:
    """Read a model directory's text side. Raises ModelLoadError naming the bad file and the remedy."""
    files = read_model_files(directory)
    path = directory / "tokenizer.json"
    if not path.exists():
        remedy = "save the tokenizer in its fast form (tokenizer.json) beside config.json"
        raise ModelLoadError(f"{path}: is missing; {remedy}")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every kind of bad file
        raise ModelLoadError(f"{path}: is not a tokenizer ({error}); download it again") from error
    backend.no_padding()
    backend.no_truncation()
    decoder = read_json(path).get("decoder")
    return Tokenizer(
        backend,
        vocabulary=files.vocabulary,
        context_tokens=files.context_tokens,
        template=None if files.chat_template is None else ChatTemplate(files.chat_template, files.special_tokens),
        vision=vision_text.load(
            directory, token_of=backend.token_to_id, text_of=backend.id_to_token, encode=_encoder(backend)
        ),
        defaults=files.defaults,
        has_byte_level_decoder=isinstance(decoder, dict) and decoder.get("type") == "ByteLevel",
    )


def _encoder(backend: tokenizers.Tokenizer) -> Callable[[str], list[int]]:
    return lambda text: backend.encode(text, add_special_tokens=False).ids


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's mapping of printable characters to bytes, as every byte-level BPE stores its vocabulary."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in plain}
    others = [byte for byte in range(256) if byte not in set(plain)]
    alphabet.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return alphabet


_ALPHABET: Final = _byte_level_alphabet()


def _byte_table(backend: tokenizers.Tokenizer, *, special: set[int]) -> list[bytes]:
    vocabulary = backend.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for text, token in vocabulary.items():
        if token in special:
            continue
        if all(character in _ALPHABET for character in text):
            table[token] = bytes([_ALPHABET[character] for character in text])
        else:
            table[token] = text.encode()  # an added token with characters no byte-level token has
    return table
