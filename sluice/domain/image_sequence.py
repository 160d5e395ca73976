"""An image as a sequence of its own: its embeddings are that sequence's KV (docs/adr/0014). Pure.

Next: `image.py` for its tokens.
"""

from sluice.domain.block_hash import extend_chain
from sluice.domain.ids import BlockHash, Epoch, RequestId, RouterId, SequenceId
from sluice.domain.image import ImageLayout, ImageSpan, embedding_tokens
from sluice.domain.sampling import SamplingParams
from sluice.domain.sequence import SequenceState


def image_sequence(
    layout: ImageLayout,
    *,
    sequence: SequenceId,
    viewer: SequenceId,
    request: RequestId,
    router: RouterId,
    epoch: Epoch,
    root: BlockHash,
    max_tokens: int,
    traceparent: str = "",
) -> SequenceState:
    """As a worker takes it. `viewer` will read it, `root` starts its hash chain; with a `max_tokens` of 1 it ends once
    its embeddings are in the cache, with more it can be held or handed off."""
    tokens = embedding_tokens(layout.digest, layout.tokens)
    return SequenceState(
        sequence=sequence,
        request=request,
        router=router,
        epoch=epoch,
        tokens=tokens,
        prompt_tokens=len(tokens),
        unit_hashes=tuple(extend_chain(root, tokens)),
        root=root,
        sampling=SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True),
        traceparent=traceparent,
        images=(ImageSpan(digest=layout.digest, first=0, rows=1, columns=layout.tokens),),
        viewer=viewer,
    )
