"""Learns what KV a model makes by running it once on two tokens, instead of trusting its config.

Decides whether the paged pool fits: every layer must call attention once, with the same KV shape, causally,
with a full or a sliding window. Raises ModelLoadError otherwise (Mamba layers, latent attention, chunked attention,
models that do not use transformers' attention interface). Next: `model_loader.py`.
"""

from dataclasses import dataclass
from typing import Final

import torch
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from sluice.errors import ModelLoadError

PROBE_NAME: Final = "sluice_probe"
PROBE_TOKENS: Final = 2
LAYER_TYPES: Final = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class LayerCall:
    """How one layer called attention."""

    layer: int
    heads: int
    head_dim: int
    value_dim: int
    window: int | None
    is_causal: bool
    has_mask: bool


@dataclass(frozen=True, slots=True)
class KvShape:
    """The KV every layer makes, and each layer's sliding window."""

    layers: int
    heads: int
    head_dim: int
    windows: tuple[int | None, ...]


def probe_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    calls: list[LayerCall] | None = None,
    sliding_window: int | None = None,
    **_other: object,
) -> tuple[torch.Tensor, None]:
    """Record the call and return zeros in place of attention: [1, tokens, query heads, value_dim]."""
    call = LayerCall(
        layer=int(module.layer_idx),  # type: ignore[arg-type]  # a module attribute, set by every attention class
        heads=key.shape[1],
        head_dim=key.shape[3],
        value_dim=value.shape[3],
        window=sliding_window,
        is_causal=bool(getattr(module, "is_causal", True)),
        has_mask=attention_mask is not None,
    )
    if calls is not None:  # else the model drops extra arguments, and the missing calls say so
        calls.append(call)
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3]), None


def probe_model(model: PreTrainedModel, *, name: str) -> KvShape:
    """Run `model` once. Raises ModelLoadError if its KV does not fit one paged pool."""
    _check_config(model.config.get_text_config(), name)
    calls: list[LayerCall] = []
    tokens = torch.zeros(1, PROBE_TOKENS, dtype=torch.long, device=model.device)
    positions = torch.arange(PROBE_TOKENS, device=model.device)[None]
    try:
        model.set_attn_implementation(PROBE_NAME)
        with torch.inference_mode():
            model(input_ids=tokens, position_ids=positions, use_cache=False, calls=calls)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise ModelLoadError(f"{name}: its code cannot run on a paged KV cache ({error}); {_REMEDY}") from error
    layers = int(model.config.get_text_config().num_hidden_layers)
    if [call.layer for call in calls] != list(range(layers)):
        problem = f"{len(calls)} calls in {layers} layers"
        raise ModelLoadError(f"{name}: not every layer calls attention once, by the interface ({problem}); {_REMEDY}")
    shapes = {(call.heads, call.head_dim, call.value_dim) for call in calls}
    heads, head_dim, value_dim = min(shapes)
    if len(shapes) > 1 or head_dim != value_dim:
        raise ModelLoadError(f"{name}: its layers differ in the shape of K and V ({sorted(shapes)}); {_REMEDY}")
    if not all(call.is_causal for call in calls):
        raise ModelLoadError(f"{name}: its attention is not causal; {_REMEDY}")
    if any(call.has_mask for call in calls):
        raise ModelLoadError(f"{name}: its code makes attention masks of its own; {_REMEDY}")
    windows = tuple(call.window for call in calls)
    _check_windows(model.config.get_text_config(), windows, name)
    return KvShape(layers=layers, heads=heads, head_dim=head_dim, windows=windows)


_REMEDY: Final = "serve a decoder-only model with the same attention in every layer"


def _check_config(config: PreTrainedConfig, name: str) -> None:
    """Refuse what transformers expresses in masks, which we do not build."""
    types = set(getattr(config, "layer_types", None) or ())
    if not types <= LAYER_TYPES:
        raise ModelLoadError(f"{name}: has layers of type {', '.join(sorted(types - LAYER_TYPES))}; {_REMEDY}")
    if getattr(config, "use_bidirectional_attention", None) or not getattr(config, "is_causal", True):
        raise ModelLoadError(f"{name}: its attention is not causal; {_REMEDY}")
    if getattr(config, "is_decoder", None) is False and hasattr(config, "is_decoder") and _is_encoder(config):
        raise ModelLoadError(f"{name}: is an encoder; {_REMEDY}")


def _is_encoder(config: PreTrainedConfig) -> bool:
    return not any(str(each).endswith("ForCausalLM") for each in config.architectures or ())


def _check_windows(config: PreTrainedConfig, windows: tuple[int | None, ...], name: str) -> None:
    types = getattr(config, "layer_types", None) or ()
    for layer, (layer_type, window) in enumerate(zip(types, windows, strict=False)):
        if layer_type == "sliding_attention" and window is None:
            raise ModelLoadError(f"{name}: layer {layer} slides over a window that its code does not pass; {_REMEDY}")


AttentionInterface.register(PROBE_NAME, probe_attention)
