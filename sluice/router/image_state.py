"""An image's own sequence, as routers start it at encode workers (docs/adr/0014). Decides nothing.

Next: `showings.py`, which has it handed off, and `keeps.py`, which has it held.
"""

from typing import Final

from sluice.domain.block_hash import extend_chain
from sluice.domain.ids import BlockHash, Epoch, RequestId, RouterId, SequenceId
from sluice.domain.image import ImageLayout, ImageSpan, embedding_tokens
from sluice.domain.sampling import SamplingParams
from sluice.domain.sequence import SequenceState

EPOCH: Final = 0
"""An image's own sequence is never taken over: another is begun."""

_SAMPLING: Final = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)


def image_state(
    layout: ImageLayout,
    *,
    sequence: SequenceId,
    viewer: SequenceId,
    root: BlockHash,
    router: RouterId,
    purpose: str,
    traceparent: str = "",
) -> SequenceState:
    """The sequence whose KV is the image's embeddings. `root` starts its hash chain, `viewer` will read it,
    `purpose` ends its request's name in logs."""
    tokens = embedding_tokens(layout.digest, layout.tokens)
    return SequenceState(
        sequence=sequence,
        request=RequestId(f"image {layout.digest.hex()} {purpose}"),
        router=router,
        epoch=Epoch(EPOCH),
        tokens=tokens,
        prompt_tokens=len(tokens),
        unit_hashes=tuple(extend_chain(root, tokens)),
        root=root,
        sampling=_SAMPLING,
        traceparent=traceparent,
        images=(ImageSpan(digest=layout.digest, first=0, rows=1, columns=layout.tokens),),
        viewer=viewer,
    )
