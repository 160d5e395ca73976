"""All that a router does with encode workers: looks at pictures for prompts, shows images to those who read them.

Sorts what encode workers say to `looks.py` and `showings.py`; their sequences are images, never a client's. Owns
nothing else. Next: these two, and `intake.py` for who asks.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sluice.clock import Clock
from sluice.domain.ids import BlockHash, RouterId, SequenceId
from sluice.domain.image import ImageLayout, embedding_root
from sluice.domain.role import Role
from sluice.errors import NoWorkerError
from sluice.router.fleet import Fleet, Member
from sluice.router.job import Picture
from sluice.router.keeps import Keeps
from sluice.router.looks import Looks, Shown
from sluice.router.showings import Reader, Showings
from sluice.telemetry.metrics import RouterMetrics
from sluice.wire.gen import sluice_pb2 as pb

NAME_BYTES: Final = 16

SMALL_SIDE: Final = 512
"""Pixels of the longer side where a client asks for little detail: what OpenAI's API says that `low` is."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is known of a picture, or will be."""

    found: "ImageLayout | asyncio.Future[ImageLayout]"
    is_known: bool  # an encode worker needs nothing more than its memory for it


class EncodeDesk:
    """One router's images."""

    def __init__(
        self,
        fleet: Fleet,
        clock: Clock,
        *,
        router: RouterId,
        metrics: RouterMetrics,
        new_sequence: Callable[[], SequenceId],
        ttft_s: float,
        tpot_s: float,
    ) -> None:
        """`new_sequence` gives ids that no other sequence has; `ttft_s` and `tpot_s` are the objectives."""
        self._fleet = fleet
        self._looks = Looks(fleet, clock, router=router, new_sequence=new_sequence, ttft_s=ttft_s, tpot_s=tpot_s)
        self._keeps = Keeps(router=router, new_sequence=new_sequence)
        self._showings = Showings(
            self._looks, fleet.at, clock, router=router, metrics=metrics, new_sequence=new_sequence
        )

    async def pictures(
        self, files: Sequence[tuple[str, bytes]], *, root: BlockHash, small: Collection[int] = ()
    ) -> tuple[Picture, ...]:
        """Files, each with the field that it came in, as prompts need them; all encoding at once on the way.

        Those at `small` are made small first, if they are not. `root` is the tenant's. Raises InvalidRequestError for
        one that cannot be shown, NoWorkerError.
        """
        if files and not any(member.is_ready for member in self._fleet.encoders):
            raise NoWorkerError("no encode worker is ready; pictures need one (sluice up --encode 1)")
        start = embedding_root(root)
        shown = [
            Shown(name=name_of(data, side_max=side_max), data=data, field=field, root=start, side_max=side_max)
            for at, (field, data) in enumerate(files)
            for side_max in [SMALL_SIDE if at in small else 0]
        ]
        looking = [self._looking(one) for one in shown]
        return tuple([await _picture(one, answer) for one, answer in zip(shown, looking, strict=True)])

    def recall(self, name: bytes, *, field: str, root: BlockHash, held: contextlib.ExitStack) -> Picture | None:
        """A picture by its file's name, if an encode worker has its embeddings: kept there until `held` closes."""
        layout = self._looks.layout_of(name)
        if layout is None:
            return None
        picture = Picture(name=name, data=b"", field=field, layout=layout, is_known=True)
        whole = Shown(name=name, data=b"", field=field, root=embedding_root(root))
        shown = [replace(whole, part=part) for part in range(len(picture.parts))]
        views = [view for one in shown if (view := self._looks.choose(one)) is not None and view.cached]
        if len(views) < len(shown):
            return None
        for one, part, view in zip(shown, picture.parts, views, strict=True):
            kept = self._keeps.keep(one.key, part, self._fleet.at(view.slot))
            if kept is not None:
                held.callback(self._keeps.let_go, kept)
        return picture

    def _looking(self, shown: Shown) -> _Answer:
        """The layout, if the picture is known; otherwise a look. What no encoder has any more is encoded meanwhile."""
        layout = self._looks.layout_of(shown.name)
        if layout is None:
            return _Answer(self._looks.look(shown), is_known=False)
        lacking = self._looks.lacking(shown)
        self._looks.share(shown, lacking)
        return _Answer(layout, is_known=not lacking)

    # ------------------------------------------------------------ prompts

    def begin(self, reader: Reader, member: Member) -> None:
        """A prompt with images was sent to `member`, which reads them: show it all of them."""
        self._showings.begin(reader, member.image_target())

    def end(self, reader: SequenceId) -> None:
        """It will read no more: it ended, or is computed elsewhere."""
        self._showings.end(reader)

    # ------------------------------------------------------------ workers

    def owns(self, sequence: SequenceId) -> bool:
        """Whether it is an image's own sequence."""
        return self._showings.owns(sequence) or self._looks.owns(sequence) or self._keeps.owns(sequence)

    def on_looked(self, member: Member, looked: pb.Looked) -> None:
        """A picture is prepared."""
        self._looks.on_looked(member, looked)

    def on_tokens(self, member: Member, step: pb.StepTokens, *, now_s: float) -> bool:
        """Images that are encoded now; what is nobody's is told to stop. No client's sequence has finished."""
        for sequence, epoch in zip(step.sequence, step.epoch, strict=False):
            if self.owns(SequenceId(sequence)):
                self._looks.on_encoded(SequenceId(sequence))
            else:
                member.cancel_stray(sequence, epoch, now_s=now_s)
        return False

    def on_roll(self, member: Member, roll: pb.Roll, *, now_s: float) -> None:
        """What lives on an encode worker for us: strangers are told to stop, what it has forgotten is redone."""
        for sequence, epoch in zip(roll.sequence, roll.epoch, strict=False):
            if not self.owns(SequenceId(sequence)):
                member.cancel_stray(sequence, epoch, now_s=now_s)
        missing = self._showings.believed_at(member) - set(map(SequenceId, roll.sequence))
        for sequence in member.forgotten(missing, heard=roll.heard):
            self._showings.on_failed(sequence, "its encode worker has forgotten it")

    def on_handoff(self, _: Member, report: pb.HandoffReport, *, now_s: float) -> None:
        """How sending embeddings to a reader went, at `now_s`. Others than our own are ignored."""
        if self._showings.owns(SequenceId(report.sequence)):
            self._showings.on_handoff(report, now_s=now_s)

    def on_failed(self, failed: pb.SequenceFailed, *, now_s: float) -> None:  # noqa: ARG002 - as `reports.py`
        """An encode worker cannot go on with one of our images."""
        sequence = SequenceId(failed.sequence)
        if self._showings.owns(sequence):
            self._showings.on_failed(sequence, failed.message)
        else:
            self._looks.on_failed(sequence, failed)
            self._keeps.on_failed(sequence)

    def on_lost(self, member: Member) -> None:
        """A worker is gone."""
        if member.info.role is Role.ENCODE:
            self._keeps.on_lost(member)
            self._looks.on_lost(member)
            self._showings.on_lost(member)

    def tick(self) -> None:
        """Time passes. A few times a second."""
        self._keeps.tick()
        self._looks.tick()
        self._showings.tick()


def name_of(data: bytes, *, side_max: int = 0) -> bytes:
    """What a picture's file is remembered by, if it is looked at in this size."""
    size = side_max.to_bytes(hashlib.blake2b.SALT_SIZE, "little")
    return hashlib.blake2b(data, digest_size=NAME_BYTES, salt=size).digest()


async def _picture(shown: Shown, answer: _Answer) -> Picture:
    found = answer.found
    layout = found if isinstance(found, ImageLayout) else await asyncio.shield(found)
    return Picture(
        name=shown.name,
        data=shown.data,
        field=shown.field,
        layout=layout,
        side_max=shown.side_max,
        is_known=answer.is_known,
    )
