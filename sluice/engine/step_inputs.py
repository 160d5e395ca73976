"""What one forward pass is given: packed tokens, where their KV goes, and who attends over what.

Only values; `input_builder.py` makes them once per step, `attention.py` reads them in every layer.
All sequences of a step are packed into one row of tokens, decodes before prefills, and sequences
that share an attention call stand next to each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sluice.engine.contract import KvSpan
from sluice.engine.image_inputs import ImageRows
from sluice.engine.kept_keys import KeptKeys
from sluice.engine.kv_cache import KvCache
from sluice.engine.sequence import LiveSequence


@dataclass(frozen=True, slots=True)
class KeyView:
    """The keys one group attends over, for layers of one sliding window (or none).

    `head_rows[n]` [sequences * 2 * heads * blocks] are rows of LayerView.heads for layers in
    groups of n layers. `mask` [sequences, 1, queries, keys] is added to scores: 0 or -infinity.
    With `kept`, the copy that has them already, `head_rows` are those of its fresh sequences only.
    """

    head_rows: dict[int, torch.Tensor]
    mask: torch.Tensor
    kept: KeptKeys | None = None


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Packed tokens [first, end): `sequences` sequences of up to `queries` tokens each.

    When their lengths differ, `pad` [sequences * queries] repeats a sequence's last token up to
    the longest, as rows within the group, and `unpad` [end - first] picks the real ones again.
    `is_fresh`: one sequence from its first token on; its keys are the ones just computed.
    """

    first: int
    end: int
    sequences: int
    queries: int
    is_fresh: bool
    pad: torch.Tensor | None
    unpad: torch.Tensor | None
    views: dict[int | None, KeyView]  # by sliding window


@dataclass(frozen=True, slots=True)
class StepContext:
    """What every attention layer of one forward pass needs."""

    cache: KvCache
    write_rows: dict[int, torch.Tensor]  # layers in the group -> [tokens * heads] rows of LayerView.*_tokens
    groups: tuple[AttentionGroup, ...]
    on_group: Callable[[int], None] | None  # called when a layer group is written


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One forward pass. `sampled` are the sequences that get a token, in the order of `sample_rows`."""

    token_ids: torch.Tensor  # [1, tokens]
    positions: torch.Tensor  # [1, tokens], or [3, 1, tokens] where positions have three axes
    sample_rows: torch.Tensor  # [sampled] rows of the packed tokens
    sampled: tuple[LiveSequence, ...]
    write_rows: dict[int, torch.Tensor]
    groups: tuple[AttentionGroup, ...]
    held_spans: tuple[KvSpan, ...]
    images: ImageRows | None = None
