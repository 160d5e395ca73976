"""Loads one half of a vision-language model: the part that sees, or the part that speaks.

An encode worker holds no language weights, a prefill or decode worker no vision tower. The half
that is not wanted is declared with no layers, so its weights are never read, and dropped.
Next: `encoder.py` for what sees.
"""

import logging
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sluice.engine.vision.families import VisionFamily, family_of
from sluice.errors import ModelLoadError

STUB_VOCABULARY: Final = 1


def load_vision_part(directory: Path, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The vision tower and projector alone: `model.get_image_features` works, nothing else does.

    Raises ModelLoadError naming the directory and what is wrong.
    """
    config: Any = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    family = family_of(config.model_type)
    text = config.text_config
    text.num_hidden_layers, text.vocab_size, text.pad_token_id = 0, STUB_VOCABULARY, None
    if getattr(text, "layer_types", None):
        text.layer_types = []
    config.pad_token_id = None
    module = _load(directory, config, family=family, wanted=family.vision_parts, dtype=dtype)
    inner: Any = module.model
    setattr(inner, family.language_part, None)
    module.lm_head = None
    placed: PreTrainedModel = module.to(device).eval().requires_grad_(requires_grad=False)  # type: ignore[arg-type]
    return placed


def load_language_part(directory: Path, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The language model and its head alone, in the class the whole model has; its vision parts are None."""
    config: Any = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    family = family_of(config.model_type)
    setattr(config.vision_config, family.vision_depth, 0)
    if family.deepstack:
        setattr(config.vision_config, family.deepstack, [])
    module = _load(directory, config, family=family, wanted=(family.language_part,), dtype=dtype)
    inner: Any = module.model
    for part in family.vision_parts:
        setattr(inner, part, None)
    placed: PreTrainedModel = module.to(device).eval().requires_grad_(requires_grad=False)  # type: ignore[arg-type]
    return placed


def _load(
    directory: Path, config: PreTrainedConfig, *, family: VisionFamily, wanted: tuple[str, ...], dtype: torch.dtype
) -> PreTrainedModel:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers is partly typed
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)  # it would list every weight of the other half
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa",
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (ValueError, KeyError, OSError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelLoadError(f"{directory}: {problem}; copy config.json and the weights again") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    module, report = loaded
    prefixes = tuple(f"model.{part}." for part in wanted)
    broken = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind]]
    missing = sorted(key for key in broken if key.lstrip("('").startswith(prefixes))
    if missing:
        named = ", ".join(missing[:5])
        raise ModelLoadError(
            f"{directory}: {len(missing)} weights of {family.language_part} and its tower are missing or"
            f" misshapen ({named}); copy the files again"
        )
    result: PreTrainedModel = module
    return result
