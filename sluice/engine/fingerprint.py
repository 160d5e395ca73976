"""A model's name by content: two workers may exchange KV, or share prefixes, only if it agrees.

A hash of the configuration, every weight's name, shape and dtype, and a sample of its values. Not
a security boundary: it catches a different checkpoint, dtype or edited config, not a forgery.
Next: `model_loader.py`, its only user.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch

SAMPLES_PER_WEIGHT: Final = 16
FINGERPRINT_CHARACTERS: Final = 32
VOLATILE_KEYS: Final = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache"}
"""Config entries that differ between copies of the same model and change no result."""


def fingerprint_of(config: Mapping[str, Any], weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """32 hexadecimal digits. The same on every device; different for another dtype."""
    digest = hashlib.sha256()
    stable = {key: value for key, value in config.items() if key not in VOLATILE_KEYS}
    digest.update(json.dumps(stable, sort_keys=True, default=str).encode())
    for name, weight in weights:
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        flat = weight.detach().reshape(-1)
        if flat.numel():
            # Integer arithmetic: linspace in float32 would name other elements on another device.
            count = min(SAMPLES_PER_WEIGHT, flat.numel())
            places = torch.tensor([at * flat.numel() // count for at in range(count)], device=flat.device)
            digest.update(flat.index_select(0, places).float().cpu().numpy().tobytes())
    return digest.hexdigest()[:FINGERPRINT_CHARACTERS]
