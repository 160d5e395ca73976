"""Is this directory a model that can be loaded? Checks files before gigabytes are read.

Names the file and the remedy of what is wrong: missing, truncated, not JSON, not safetensors, an
index that promises absent shards. Never imports torch and never reads weights, only headers.
Next: `model_loader.py`.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sluice.errors import ModelLoadError

CONFIG: Final = "config.json"
GENERATION_CONFIG: Final = "generation_config.json"
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
HEADER_BYTES_MAX: Final = 100_000_000  # the limit of the safetensors format
CAUSAL_SUFFIXES: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def check_model_files(directory: Path) -> None:
    """Raise ModelLoadError for the first thing wrong with the files of `directory`."""
    config = read_json(directory / CONFIG, missing="point to a directory that holds a Hugging Face model")
    _check_architecture(directory / CONFIG, config)
    if (directory / GENERATION_CONFIG).exists():
        read_json(directory / GENERATION_CONFIG, missing="")
    for path in _weight_files(directory):
        _check_safetensors(path)


def read_json(path: Path, *, missing: str) -> Mapping[str, Any]:
    """The JSON object in `path`; ModelLoadError names the file and what to do."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelLoadError(f"{path}: is missing; {missing}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{path}: is not valid JSON ({error}); copy or download the file again") from error
    except OSError as error:
        raise ModelLoadError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path}: is not a JSON object; copy or download the file again")
    return content


def _check_architecture(path: Path, config: Mapping[str, Any]) -> None:
    if not isinstance(config.get("model_type"), str):
        raise ModelLoadError(f"{path}: has no model_type; use a model saved by transformers")
    architectures = config.get("architectures") or []
    if config.get("is_encoder_decoder"):
        raise ModelLoadError(f"{path}: is an encoder-decoder model; serve a decoder-only one")
    if architectures and not any(str(name).endswith(CAUSAL_SUFFIXES) for name in architectures):
        named = ", ".join(map(str, architectures))
        raise ModelLoadError(f"{path}: {named} does not generate text; serve a causal language model")


def _weight_files(directory: Path) -> list[Path]:
    index = directory / INDEX
    if index.exists():
        weight_map = read_json(index, missing="").get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelLoadError(f"{index}: has no weight_map; copy or download the file again")
        shards = sorted({str(name) for name in weight_map.values()})
        absent = [name for name in shards if not (directory / name).is_file()]
        if absent:
            named = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
            raise ModelLoadError(f"{index}: names missing files: {named}; copy or download them")
        return [directory / name for name in shards]
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if any(directory.glob("*.bin")) or any(directory.glob("*.gguf")):
        raise ModelLoadError(f"{directory}: has weights, but none in safetensors; convert them with save_pretrained()")
    raise ModelLoadError(f"{directory / WEIGHTS}: is missing; copy or download the weights")


def _check_safetensors(path: Path) -> None:
    """The header must parse and the data it describes must fill the file exactly."""
    remedy = "copy or download the file again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 0 < length <= min(size - 8, HEADER_BYTES_MAX):
                raise ModelLoadError(f"{path}: is not a complete safetensors file; {remedy}")
            header = json.loads(file.read(length))
        tensors = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelLoadError(f"{path}: has a broken safetensors header; {remedy}") from error
    expected = 8 + length + max(tensors, default=0)
    if size != expected:
        raise ModelLoadError(f"{path}: is {size} bytes and should be {expected}; {remedy}")
