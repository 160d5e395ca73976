"""Reads the small files of a model directory that say how it talks: settings, templates, limits.

Never reads weights and never imports torch. Every missing or corrupt file becomes a
ModelLoadError that names it and the remedy. Next: `tokenizer.py`, which puts the facts to use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from sluice.errors import ModelLoadError

FILE_BYTES_MAX: Final = 256 * 1024 * 1024
_CONTEXT_KEYS: Final = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
_CONTEXT_TOKENS_MAX: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """Sampling settings the model's authors recommend (generation_config.json), where they say anything."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """What the small files of a model directory say. `chat_template` is None when the model has none."""

    vocabulary: int
    context_tokens: int
    chat_template: str | None
    special_tokens: Mapping[str, str]  # bos_token, eos_token, ... as templates know them
    defaults: GenerationDefaults


def read_model_files(directory: Path) -> ModelFiles:
    """Read everything but the tokenizer itself. Raises ModelLoadError."""
    if not directory.is_dir():
        raise ModelLoadError(f"{directory}: is not a directory; give the directory of a Hugging Face model")
    config_path = directory / "config.json"
    config = read_json(config_path)
    nested = config.get("text_config")
    text_config = {**config, **nested} if isinstance(nested, dict) else config
    settings = _read_optional(directory / "tokenizer_config.json")
    special = _special_tokens({**_read_optional(directory / "special_tokens_map.json"), **settings})
    return ModelFiles(
        vocabulary=_positive(text_config, "vocab_size", path=config_path),
        context_tokens=_context_tokens(text_config, settings, path=config_path),
        chat_template=_chat_template(directory, settings),
        special_tokens=special,
        defaults=_defaults(directory / "generation_config.json"),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelLoadError naming the file and the remedy."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ModelLoadError(f"{path}: is larger than {FILE_BYTES_MAX} bytes; this is not a settings file")
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelLoadError(f"{path}: is missing; copy it from the model's repository") from error
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be read ({error.strerror}); make it readable") from error
    except orjson.JSONDecodeError as error:
        raise ModelLoadError(f"{path}: is not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path}: holds no JSON object; download it again")
    return value


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _positive(values: Mapping[str, Any], field: str, *, path: Path) -> int:
    value = values.get(field)
    if not isinstance(value, int) or value <= 0:
        raise ModelLoadError(f"{path}: {field} is {value!r}; it must be a positive integer")
    return value


def _context_tokens(config: Mapping[str, Any], settings: Mapping[str, Any], *, path: Path) -> int:
    for key in _CONTEXT_KEYS:
        if config.get(key) is not None:
            return _positive(config, key, path=path)
    # Tokenizers write 1e30 there to say "no limit".
    stated = settings.get("model_max_length")
    if isinstance(stated, int) and 0 < stated <= _CONTEXT_TOKENS_MAX:
        return stated
    raise ModelLoadError(f"{path}: states no context length; add max_position_embeddings")


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """Entries such as `bos_token`: a string, or an object with `content`."""
    tokens: dict[str, str] = {}
    for name, value in settings.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            tokens[name] = content
    return tokens


def _chat_template(directory: Path, settings: Mapping[str, Any]) -> str | None:
    """A chat_template.jinja file wins over tokenizer_config.json, as in transformers."""
    path = directory / "chat_template.jinja"
    if path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelLoadError(f"{path}: cannot be read ({error}); download it again") from error
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _defaults(path: Path) -> GenerationDefaults:
    values = _read_optional(path)
    plain = GenerationDefaults()

    def number(field: str, otherwise: float) -> float:
        value = values.get(field)
        if value is None:
            return otherwise
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelLoadError(f"{path}: {field} is {value!r}; it must be a number")
        return float(value)

    return GenerationDefaults(
        temperature=number("temperature", plain.temperature),
        top_p=number("top_p", plain.top_p),
        top_k=int(number("top_k", plain.top_k)),
        min_p=number("min_p", plain.min_p),
        repetition_penalty=number("repetition_penalty", plain.repetition_penalty),
    )
