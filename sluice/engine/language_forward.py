"""One forward pass of a vision-language model's language half: embeddings in, logits out.

Image tokens' embeddings replace those of the table; a family with deepstack adds further levels after its
first layers. Next: `torch_runner.py`, the only caller.
"""

from typing import Any

import torch
from transformers import PreTrainedModel

from sluice.engine.step_inputs import StepContext, StepInputs
from sluice.engine.vision.families import VisionFamily


def language_logits(
    module: PreTrainedModel, family: VisionFamily, inputs: StepInputs, context: StepContext
) -> torch.Tensor:
    """Logits [1, sampled, vocabulary]."""
    whole: Any = module
    images = inputs.images
    language = getattr(whole.model, family.language_part)
    embeddings = whole.get_input_embeddings()(inputs.token_ids)
    extra: dict[str, Any] = {}
    if images is not None:
        embeddings[0, images.rows] = images.embeddings[:, 0]
        if family.deepstack:
            mask = torch.zeros_like(inputs.token_ids, dtype=torch.bool)
            mask[0, images.rows] = True
            extra["visual_pos_masks"] = mask
            # The mask is read from left to right: rows must come in that order.
            in_order = images.embeddings[images.rows.argsort()]
            extra["deepstack_visual_embeds"] = [in_order[:, level] for level in range(1, in_order.shape[1])]
    hidden = language(
        inputs_embeds=embeddings, position_ids=inputs.positions, use_cache=False, step=context, **extra
    ).last_hidden_state
    logits: torch.Tensor = whole.lm_head(hidden[:, inputs.sample_rows])
    return logits
