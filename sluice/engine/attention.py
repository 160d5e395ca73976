"""Paged attention for transformers' model classes: writes K and V into the pool, attends over it.

transformers calls `paged_attention` in place of its own attention (AttentionInterface) with one
packed row of tokens; the step's StepContext arrives as the keyword `step`. No loop over
sequences: `input_builder.py` has grouped them and made every index. Only torch operations,
the same on the CPU and on CUDA. Masks of transformers are never built: the name is registered as
an attention without a mask function, and `model_probe.py` refuses models that need another mask.
"""

from typing import Final

import torch
from torch.nn import functional
from transformers import AttentionInterface

from sluice.engine.kv_cache import LayerView
from sluice.engine.step_inputs import AttentionGroup, KeyView, StepContext

ATTENTION_NAME: Final = "sluice_paged"

SCORE_ELEMENTS_MAX: Final = 1 << 26
"""Most attention scores held at once by the explicit path: 256 MiB in float32."""


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  # transformers passes it by either way; see model_probe.py
    *,
    step: StepContext,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_other: object,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer over the whole step.

    `query` [1, query heads, tokens, head_dim], `key` and `value` [1, heads, tokens, head_dim], rotary
    embedding applied. `s_aux` [query heads] are attention sinks (GPT-OSS), `softcap` caps scores
    (Gemma 2). Returns [1, tokens, query heads, head_dim] and no weights.
    """
    layer_index = int(module.layer_idx)  # type: ignore[arg-type]  # a module attribute, set by every attention class
    layer = step.cache.layers[layer_index]
    head_dim = query.shape[-1]
    queries = query[0].transpose(0, 1)  # [tokens, query heads, head_dim]
    keys, values = key[0].transpose(0, 1), value[0].transpose(0, 1)
    rows = step.write_rows[layer.group_layers]
    layer.key_tokens.index_copy_(0, rows, keys.reshape(-1, head_dim))
    layer.value_tokens.index_copy_(0, rows, values.reshape(-1, head_dim))
    if layer.is_last_of_group and step.on_group is not None:
        step.on_group(layer.group)
    scale = head_dim**-0.5 if scaling is None else scaling
    is_plain = softcap is None and s_aux is None
    outputs: list[torch.Tensor] = []
    for group in step.groups:
        own = slice(group.first, group.end)
        group_queries = _padded(queries[own], group)
        view = group.views[sliding_window]
        if is_plain and group.is_fresh and view is group.views.get(None):
            attended = _attend_fresh(group_queries, keys[own], values[own], scale)
        else:
            if view.kept is None:
                group_keys, group_values = _gather(layer, group, view, head_dim)
            else:
                group_keys, group_values = view.kept.extended(
                    layer_index,
                    keys[own],
                    values[own],
                    heads=layer.heads,
                    fresh_rows=view.head_rows[layer.group_layers],
                )
            if is_plain:
                attended = _attend(group_queries, group_keys, group_values, view.mask, scale)
            else:
                attended = _attend_explicitly(
                    group_queries, group_keys, group_values, view.mask, scale=scale, softcap=softcap, sinks=s_aux
                )
        outputs.append(attended if group.unpad is None else attended.index_select(0, group.unpad))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return output[None], None


def _padded(queries: torch.Tensor, group: AttentionGroup) -> torch.Tensor:
    """[tokens, query heads, head_dim] -> [sequences, queries, query heads, head_dim]."""
    rows = queries if group.pad is None else queries.index_select(0, group.pad)
    return rows.reshape(group.sequences, group.queries, *queries.shape[1:])


def _gather(layer: LayerView, group: AttentionGroup, view: KeyView, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a group, [sequences, heads, keys, head_dim] each: one copy of long rows."""
    rows = layer.heads.index_select(0, view.head_rows[layer.group_layers])
    both = rows.view(group.sequences, 2, -1, view.mask.shape[-1], head_dim)
    return both[:, 0], both[:, 1]


def _attend_fresh(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """One sequence from its first token on: its keys are at hand and the mask is the causal one."""
    attended = functional.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(0, 1)[None],
        values.transpose(0, 1)[None],
        is_causal=True,
        scale=scale,
        enable_gqa=queries.shape[2] != keys.shape[1],
    )
    return attended[0].transpose(0, 1)


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Padded sequences; queries [sequences, queries, query heads, head_dim]. Returns [rows, query heads, head_dim]."""
    sequences, length, query_heads, head_dim = queries.shape
    heads = keys.shape[1]
    if length == 1:
        # The query heads that share a KV head become its queries: keys are read once, not per query head.
        folded = queries.reshape(sequences, heads, query_heads // heads, head_dim)
        attended = functional.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scale)
        return attended.reshape(sequences, query_heads, head_dim)
    if keys.is_cuda and query_heads != heads:
        # No fused CUDA kernel takes both a mask and grouped heads; copying K and V is cheaper than the unfused one.
        keys = keys.repeat_interleave(query_heads // heads, dim=1)
        values = values.repeat_interleave(query_heads // heads, dim=1)
    attended = functional.scaled_dot_product_attention(
        queries.transpose(1, 2), keys, values, attn_mask=mask, scale=scale, enable_gqa=query_heads != keys.shape[1]
    )
    return attended.transpose(1, 2).reshape(sequences * length, query_heads, head_dim)


def _attend_explicitly(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    *,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """The same with capped scores or sinks, which no fused kernel takes; tiled over queries to bound memory."""
    sequences, length, query_heads, head_dim = queries.shape
    heads = keys.shape[1]
    folded = queries.reshape(sequences, length, heads, query_heads // heads, head_dim).permute(0, 2, 3, 1, 4)
    tile = max(1, SCORE_ELEMENTS_MAX // (sequences * query_heads * keys.shape[2]))
    tiles: list[torch.Tensor] = []
    for first in range(0, length, tile):
        scores = folded[:, :, :, first : first + tile] @ keys[:, :, None].transpose(-1, -2) * scale
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.float() + mask[:, :, None, first : first + tile]
        if sinks is not None:
            sink = sinks.float().view(1, heads, -1, 1, 1).expand(*scores.shape[:-1], 1)
            weights = torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]
        else:
            weights = scores.softmax(-1)
        tiles.append(weights.to(values.dtype) @ values[:, :, None])
    attended = tiles[0] if len(tiles) == 1 else torch.cat(tiles, dim=3)
    return attended.permute(0, 3, 1, 2, 4).reshape(sequences * length, query_heads, head_dim)


AttentionInterface.register(ATTENTION_NAME, paged_attention)
