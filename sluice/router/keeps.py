"""Has encode workers keep the embeddings of pictures that requests only name: nobody could encode those again.

    keep --Start, for nobody yet--> held at the encode worker --all who need it are gone--> Cancel

The picture's own sequence is held where its embeddings are cached, so that they are not evicted before they are
shown. One hold serves all who name the same picture. A worker that drains, or too many holds, end the promise: then
the request is told. Lives on the event loop. Next: `encode_desk.py`, who asks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sluice.domain.ids import RouterId, SequenceId
from sluice.domain.image import ImageLayout, held_tokens
from sluice.router import orders
from sluice.router.fleet import Member
from sluice.router.image_state import EPOCH, image_state
from sluice.router.looks import Key
from sluice.wire.gen import sluice_pb2 as pb

HELD_SHARE: Final = 4
"""No more than this part of a worker's batch, and of its memory, is held: requests would wait for each other."""

NOBODY: Final = pb.DecodeTarget()
"""A target without a name: whoever is told to hand off there holds the sequence instead."""


@dataclass(slots=True, eq=False)
class Kept:
    """One part of a picture held at one worker, for `wanted` requests."""

    member: Member
    sequence: SequenceId
    tokens: int  # of its memory
    wanted: int = 0


class Keeps:
    """What one router has encode workers hold."""

    def __init__(self, *, router: RouterId, new_sequence: Callable[[], SequenceId]) -> None:
        self._router = router
        self._new_sequence = new_sequence
        self._kept: dict[Key, Kept] = {}

    def keep(self, key: Key, layout: ImageLayout, member: Member) -> Kept | None:
        """Hold a part of a picture at `member`, which has it, until all who asked have let go; None without room."""
        kept = self._kept.get(key)
        if kept is None:
            tokens = held_tokens(layout.tokens)
            if not self._has_room(member, tokens):
                return None
            kept = self._kept[key] = Kept(member, self._new_sequence(), tokens)
            state = image_state(
                layout,
                sequence=kept.sequence,
                viewer=kept.sequence,
                root=key[0],
                router=self._router,
                purpose="kept",
            )
            member.link.send(orders.start(state, NOBODY))
        kept.wanted += 1
        return kept

    def _has_room(self, member: Member, tokens: int) -> bool:
        held = [kept.tokens for kept in self._kept.values() if kept.member is member]
        info = member.info
        is_batch_free = (len(held) + 1) * HELD_SHARE <= info.batch_sequences_max
        return is_batch_free and (sum(held) + tokens) * HELD_SHARE <= info.blocks * info.block_tokens

    def let_go(self, kept: Kept) -> None:
        """One who needed it is gone; who holds it hears of the last at the next tick."""
        kept.wanted -= 1

    def owns(self, sequence: SequenceId) -> bool:
        """Whether it is a picture held for somebody."""
        return any(kept.sequence == sequence for kept in self._kept.values())

    def on_failed(self, sequence: SequenceId) -> None:
        """Its worker holds it no longer: whoever comes next has it held anew."""
        self._kept = {key: kept for key, kept in self._kept.items() if kept.sequence != sequence}

    def on_lost(self, member: Member) -> None:
        """The worker is gone, and all that it held."""
        self._kept = {key: kept for key, kept in self._kept.items() if kept.member is not member}

    def tick(self) -> None:
        """Let go of what nobody needs, and of what would keep a worker from being drained."""
        for key, kept in list(self._kept.items()):
            if kept.wanted <= 0 or not kept.member.is_ready:
                del self._kept[key]
                kept.member.cancel(kept.sequence, EPOCH)
