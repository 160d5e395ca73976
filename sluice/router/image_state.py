"""An image's own sequence, as routers start it at encode workers (docs/adr/0014). Decides nothing.

Next: `showings.py`, which has it handed off, and `keeps.py`, which has it held.
"""

from typing import Final

from sluice.domain.ids import BlockHash, Epoch, RequestId, RouterId, SequenceId
from sluice.domain.image import ImageLayout
from sluice.domain.image_sequence import image_sequence
from sluice.domain.sequence import SequenceState

EPOCH: Final = 0
"""An image's own sequence is never taken over: another is begun."""


def image_state(
    layout: ImageLayout,
    *,
    sequence: SequenceId,
    viewer: SequenceId,
    root: BlockHash,
    router: RouterId,
    purpose: str,
    traceparent: str = "",
    max_tokens: int = 2,
) -> SequenceState:
    """The sequence whose KV is the image's embeddings. `root` starts its hash chain, `viewer` will read it,
    `purpose` ends its request's name in logs; `max_tokens` as for `image_sequence`."""
    return image_sequence(
        layout,
        sequence=sequence,
        viewer=viewer,
        request=RequestId(f"image {layout.digest.hex()} {purpose}"),
        router=router,
        epoch=Epoch(EPOCH),
        root=root,
        max_tokens=max_tokens,
        traceparent=traceparent,
    )
