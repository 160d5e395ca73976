"""Brings the embeddings of a prompt's images to the worker that computes the prompt, part by part.

Each part of an image is a sequence of its own at an encode worker, handed off to the reader's worker: spread over all
encode workers, each pushed as soon as it is encoded; the reader puts them in order. A dead encode worker's share is
looked at again elsewhere. The legal moves are `showing.py`'s table. Lives on the event loop; never awaits. Next:
`looks.py`, `flow.py`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, assert_never

from sluice.clock import Clock
from sluice.domain.ids import BootId, Epoch, RouterId, SequenceId
from sluice.domain.image import ImageLayout, embedding_root
from sluice.errors import InvalidRequestError
from sluice.router import orders, showing
from sluice.router.fleet import Member
from sluice.router.image_state import EPOCH, image_state
from sluice.router.job import Prompt
from sluice.router.looks import Looks, Shown
from sluice.router.records import Record
from sluice.router.showing import Effect, Event, State
from sluice.telemetry.metrics import RouterMetrics
from sluice.wire.gen import sluice_pb2 as pb

ATTEMPTS_MAX: Final = 4
RETRY_S: Final = 0.1
REFUSALS_MAX: Final = 60
"""By a reader's worker without room, a quarter of a second apart: then its prompt is computed elsewhere."""
SHOW_S_MAX: Final = 60.0
"""From sent to committed; an encode worker that takes longer has lost it."""

_UNSENT: Final = SequenceId(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A prompt with images. `blind` hears why they cannot be brought to it, `refuse` that nobody ever can."""

    sequence: SequenceId
    prompt: Prompt
    record: Record
    traceparent: str
    blind: Callable[[str], None]
    refuse: Callable[[InvalidRequestError], None]


@dataclass(slots=True, eq=False)
class _Showing:
    """One part of an image on its way to one reader."""

    reader: Reader
    shown: Shown
    layout: ImageLayout
    target: pb.DecodeTarget
    begun_s: float
    row: pb.ShownRow  # in the reader's record
    state: State = State.LOOKING
    sequence: SequenceId = _UNSENT
    member: Member | None = None
    due_s: float = 0.0
    attempts: int = 0
    refusals: int = 0
    failed: set[BootId] = field(default_factory=set)


class Showings:
    """Every image of one router's prompts that is on its way."""

    def __init__(
        self,
        looks: Looks,
        member_at: Callable[[int], Member],
        clock: Clock,
        *,
        router: RouterId,
        metrics: RouterMetrics,
        new_sequence: Callable[[], SequenceId],
    ) -> None:
        """`member_at` finds the worker of a slot."""
        self._looks = looks
        self._member_at = member_at
        self._now_s = clock.now_s
        self._router = router
        self._metrics = metrics
        self._new_sequence = new_sequence
        self._of: dict[SequenceId, list[_Showing]] = {}  # by reader
        self._sent: dict[SequenceId, _Showing] = {}  # by the image's own sequence

    def begin(self, reader: Reader, target: pb.DecodeTarget) -> None:
        """A prompt with images was sent to the worker whose images go to `target`: show it all of them."""
        self.end(reader.sequence)
        root = embedding_root(reader.prompt.root)
        pictures = reader.prompt.pictures
        reader.record.shown = []
        for image, picture in enumerate(pictures):
            self._metrics.image(is_known=picture.is_known)
            is_cached = True
            for part, layout in enumerate(picture.parts):
                shown = Shown(
                    name=picture.name,
                    data=picture.data,
                    field=picture.field,
                    root=root,
                    part=part,
                    side_max=picture.side_max,
                )
                row = pb.ShownRow(tokens=layout.tokens, known=picture.is_known, image=image)
                reader.record.shown.append(row)
                is_cached &= self._begin_part(_Showing(reader, shown, layout, target, self._now_s(), row))
            reader.record.images_cached += is_cached and picture.is_known

    def _begin_part(self, one: _Showing) -> bool:
        """Whether some encode worker has its embeddings."""
        self._of.setdefault(one.reader.sequence, []).append(one)
        view = self._looks.choose(one.shown)
        if view is None or not (view.cached or view.prepared):
            self._look(one)
            return False
        self._feed(one, Event.LOOKED)
        return view.cached

    def end(self, reader: SequenceId) -> None:
        """It will read no more: it ended, or is computed elsewhere."""
        for one in self._of.pop(reader, ()):
            self._feed(one, Event.ENDED)

    def owns(self, sequence: SequenceId) -> bool:
        """Whether it is an image on its way to a prompt."""
        return sequence in self._sent

    def believed_at(self, member: Member) -> set[SequenceId]:
        """Images that should be on an encode worker for us."""
        return {sequence for sequence, one in self._sent.items() if one.member is member}

    def on_handoff(self, report: pb.HandoffReport, *, now_s: float) -> None:
        """An encode worker says how sending went."""
        one = self._sent[SequenceId(report.sequence)]
        match report.outcome:
            case pb.HANDOFF_COMMITTED:
                record = one.reader.record
                record.images_bytes += report.bytes
                record.images_s = max(record.images_s, now_s - one.begun_s)
                self._feed(one, Event.COMMITTED)
                if all(other.state is State.DONE for other in self._of.get(one.reader.sequence, ())):
                    self._metrics.images_shown(seconds=record.images_s)
            case pb.HANDOFF_REFUSED:
                one.due_s = now_s + RETRY_S
                one.refusals += 1
                self._feed(one, Event.REFUSED)
                if one.refusals >= REFUSALS_MAX:  # prompts may hold room that each other wait for
                    self._feed(one, Event.FAILED, report.reason)
            case _:
                self._lost(one, report.reason)

    def on_failed(self, sequence: SequenceId, why: str) -> None:
        """An encode worker cannot go on with it: it may have forgotten the picture."""
        self._lost(self._sent[sequence], why)

    def on_lost(self, member: Member) -> None:
        """An encode worker is gone."""
        for one in [one for one in self._sent.values() if one.member is member]:
            self._lost(one, f"encode worker {member.name} was lost")

    def tick(self) -> None:
        """Ask again those that had no room; give up waiting for those that say nothing."""
        now_s = self._now_s()
        for one in list(self._sent.values()):
            if one.state is State.PAUSED and one.due_s <= now_s:
                self._feed(one, Event.TIME)
            elif now_s > one.due_s + SHOW_S_MAX and one.member is not None:
                one.member.cancel(one.sequence, EPOCH)
                self._lost(one, "it did not arrive in time")

    # ------------------------------------------------------------ inside

    def _lost(self, one: _Showing, why: str) -> None:
        one.attempts += 1
        if one.member is not None:
            one.failed.add(one.member.info.boot)
        if one.attempts >= ATTEMPTS_MAX:
            self._feed(one, Event.FAILED, why)
        else:
            self._metrics.image_redone()
            self._feed(one, Event.LOST)

    def _feed(self, one: _Showing, event: Event, why: str = "") -> None:
        if not showing.expects(one.state, event):
            return  # a late report
        one.state, effects = showing.advance(one.state, event)
        if one.state in {State.LOOKING, State.DONE}:
            self._sent.pop(one.sequence, None)
        for effect in effects:
            match effect:
                case Effect.LOOK:
                    self._look(one)
                case Effect.SEND:
                    self._send(one)
                case Effect.SEND_AGAIN:
                    assert one.member is not None
                    one.due_s = self._now_s()
                    one.member.link.send(orders.retarget(one.sequence, Epoch(EPOCH), one.target))
                case Effect.CANCEL:
                    assert one.member is not None
                    one.member.cancel(one.sequence, EPOCH)
                case Effect.GIVE_UP:
                    one.reader.blind(why)
                case _:
                    assert_never(effect)

    def _look(self, one: _Showing) -> None:
        if not one.shown.data:  # it was named, not sent
            problem, remedy = "names a picture that no encode worker has any more", "send the bytes of its file"
            one.reader.refuse(InvalidRequestError(field=one.shown.field, problem=problem, remedy=remedy))
            return
        looking = self._looks.look(one.shown, avoid=one.failed)
        looking.add_done_callback(lambda done: self._on_looked(one, done))

    def _on_looked(self, one: _Showing, looked: "asyncio.Future[ImageLayout]") -> None:
        if looked.cancelled() or one.state is not State.LOOKING:
            return
        if (error := looked.exception()) is not None:
            self._feed(one, Event.FAILED, str(error))
        else:
            self._feed(one, Event.LOOKED)

    def _send(self, one: _Showing) -> None:
        view = self._looks.choose(one.shown, avoid=one.failed)
        if view is None:  # the one that looked is gone already
            one.state = State.LOOKING
            self._look(one)
            return
        member = one.member = self._member_at(view.slot)
        one.sequence, one.due_s = self._new_sequence(), self._now_s()
        self._sent[one.sequence] = one
        one.row.encoder = member.name
        if member.name not in one.reader.record.encoders:
            one.reader.record.encoders.append(member.name)
        state = image_state(
            one.layout,
            sequence=one.sequence,
            viewer=one.reader.sequence,
            root=one.shown.root,
            router=self._router,
            purpose=f"of {one.reader.record.request}",
            traceparent=one.reader.traceparent,
        )
        member.link.send(orders.start(state, one.target))
