"""Makes small models of many families with random weights, for tests and benchmarks.

Seeded, so that everyone makes the same model. Their text means nothing, but every operation
of the family is there: what transformers' generate() says of them is the oracle. Never used while
serving. Next: `model_loader.py` reads what this writes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

VOCABULARY: Final = 101
WINDOW: Final = 20
"""Sliding window of the families that have one: smaller than the prompts of the tests."""

_MOE: Final[Mapping[str, Any]] = {"num_experts_per_tok": 2, "num_hidden_layers": 2}
_ALTERNATING: Final = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]

FAMILIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 4},
    "mistral": {"model_type": "mistral", "sliding_window": WINDOW},
    "qwen2": {"model_type": "qwen2"},
    "qwen2-sliding": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 2,
    },
    "qwen3": {"model_type": "qwen3"},
    "gemma2": {
        "model_type": "gemma2",
        "sliding_window": WINDOW,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 20.0,
        "query_pre_attn_scalar": 24,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "sliding_window": WINDOW,
        "layer_types": _ALTERNATING,
        "query_pre_attn_scalar": 24,
    },
    "phi3": {"model_type": "phi3", "sliding_window": None, "pad_token_id": 0},
    "gpt-oss": {
        "model_type": "gpt_oss",
        "sliding_window": WINDOW,
        "layer_types": _ALTERNATING,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, **_MOE},
    "qwen3-moe": {"model_type": "qwen3_moe", "num_experts": 4, "moe_intermediate_size": 24, **_MOE},
}
"""What makes each family itself, over _SMALL."""

_SMALL: Final[Mapping[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


def save_random_model(directory: Path, *, family: str, seed: int = 0, spread: float = 0.3, **changes: Any) -> None:
    """Write config and safetensors of one of FAMILIES to `directory`, with `changes` to its config.

    `spread` is the standard deviation of the weights: wide enough that the likeliest token is
    far ahead of the next, or rounding would decide what a test compares.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers is partly typed
    settings = {**_SMALL, **FAMILIES[family], **changes}
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make: Any = AutoModelForCausalLM.from_config
        model = make(config, dtype=torch.float32, attn_implementation="eager")
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1 or "sinks" in name or "bias" in name:
                    weight.normal_(std=spread)
                else:
                    weight.add_(torch.randn_like(weight) * spread / 10)
    model.generation_config.pad_token_id = config.pad_token_id
    model.save_pretrained(directory)
