"""Asks encode workers to look at pictures: what comes back is how a prompt lays them out.

    picture --Look--> the least busy encode worker --Looked--> layout      (it goes on and encodes it)
                          |                           `--cut into tiles--> its other parts, spread over encode workers
                          `--busy, lost, silent--> another one; after LOOKS_MAX of them the request fails

A layout is remembered by the hash of the picture's file, so that a picture seen before needs no look. One
look serves all who ask for the same picture at the same time. Lives on the event loop; never places prompts.
Next: `encode_desk.py`, `encode_worker/looks.py` for who answers.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias, TypeVar

from sluice.capacity.encode_curve import EncodeCurve
from sluice.clock import Clock
from sluice.domain.block_hash import HASH_UNIT_TOKENS, extend_chain
from sluice.domain.ids import BlockHash, BootId, RouterId, SequenceId
from sluice.domain.image import ImageLayout, embedding_tokens, parts_of
from sluice.errors import InvalidRequestError, NoWorkerError, SluiceError
from sluice.policy.encoding import Encoder, choose_encoders
from sluice.router import orders
from sluice.router.fleet import Fleet, Member
from sluice.router.image_state import EPOCH, image_state
from sluice.wire.gen import sluice_pb2 as pb

K = TypeVar("K")
V = TypeVar("V")

LOOKS_MAX: Final = 4
LOOK_TOKENS: Final = 512
"""A picture whose size nobody knows yet counts as so many embeddings."""

TOKEN_S_MIN: Final = 1e-6
"""An embedding takes some time everywhere: queues must count."""

TTFT_SHARE: Final = 0.5
"""Of the objective for the first token, what encoding may take: a cheaper encode worker is preferred so long."""

LOOK_S_MAX: Final = 20.0
LAYOUTS_MAX: Final = 65_536
SEEN_MAX: Final = 4096
_UNSENT: Final = SequenceId(0)


Key: TypeAlias = tuple[BlockHash, bytes, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A part of a picture, with the picture's file and what names it. One that is not cut has part 0 alone."""

    name: bytes
    data: bytes
    field: str
    root: BlockHash  # of the image's own hash chain
    part: int = 0
    side_max: int = 0  # pixels that its longer side is made first; 0: it stays as it is

    @property
    def key(self) -> Key:
        """Tenant, picture and part."""
        return self.root, self.name, self.part


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderView:
    """What is known of one encode worker that admits work."""

    cached: bool  # it has all embeddings of the part
    prepared: bool  # it has looked at the picture, and makes them
    encoder: Encoder

    @property
    def slot(self) -> int:
        """Of the worker."""
        return self.encoder.slot


@dataclass(slots=True, eq=False)
class _Look:
    """One picture on its way to its layout, at one encode worker."""

    shown: Shown
    parts: tuple[int, ...]  # what this worker is to encode; of an unknown picture, its first
    answer: "asyncio.Future[ImageLayout]"
    avoid: AbstractSet[BootId]
    is_unknown: bool  # nobody has said how many parts there are
    sequence: SequenceId = _UNSENT
    member: Member | None = None
    sent_s: float = 0.0
    failed: set[BootId] = field(default_factory=set)

    @property
    def keys(self) -> list[Key]:
        """What it is open for."""
        return [replace(self.shown, part=part).key for part in self.parts]


class Looks:
    """The looks of one router."""

    def __init__(
        self,
        fleet: Fleet,
        clock: Clock,
        *,
        router: RouterId,
        new_sequence: Callable[[], SequenceId],
        ttft_s: float,
        tpot_s: float,
    ) -> None:
        """`ttft_s` and `tpot_s`: the objectives of who asks, and of who decodes beside an encoder."""
        self._fleet = fleet
        self._budget_s = TTFT_SHARE * ttft_s
        self._tpot_s = tpot_s
        self._now_s = clock.now_s
        self._router = router
        self._new_sequence = new_sequence
        self._open: dict[SequenceId, _Look] = {}
        self._by_key: dict[Key, _Look] = {}
        self._encoding: dict[SequenceId, tuple[Member, int]] = {}  # looked at, not yet encoded: who, how many tokens
        self._layouts: OrderedDict[bytes, ImageLayout] = OrderedDict()
        self._seen_by: OrderedDict[Key, BootId] = OrderedDict()
        self._holders: OrderedDict[tuple[BlockHash, bytes], frozenset[BootId]] = OrderedDict()  # who has looked at it

    # ---------------------------------------------------------------- asking

    def layout_of(self, name: bytes) -> ImageLayout | None:
        """What is known of a picture that was looked at before."""
        return self._layouts.get(name)

    def look(self, shown: Shown, *, avoid: AbstractSet[BootId] = frozenset()) -> "asyncio.Future[ImageLayout]":
        """Have a picture prepared and this part of it encoded, by others than `avoid` if there are any; the other parts
        of a picture that nobody has looked at, too, by whoever is free.

        The future fails with a SluiceError; nobody need wait for it.
        """
        look = self._by_key.get(shown.key)
        if look is None:
            look = self._open_look(shown, (shown.part,), avoid=avoid)
            self._send(look, self.choose(shown, avoid=look.avoid))
        return look.answer

    def lacking(self, shown: Shown) -> list[int]:
        """The parts of a known picture whose embeddings no encode worker has, or is making."""
        views = (self.choose(replace(shown, part=part)) for part in range(len(parts_of(self._layouts[shown.name]))))
        return [part for part, view in enumerate(views) if view is None or not (view.cached or view.prepared)]

    def share(self, shown: Shown, parts: Sequence[int], *, prepare_s: float = 0.0) -> None:
        """Have these parts of a known picture encoded, spread over encode workers. Who has not looked at it needs
        `prepare_s` more."""
        wanted = [part for part in parts if replace(shown, part=part).key not in self._by_key]
        holders = self._holders.get((shown.root, shown.name), frozenset())
        views = {view.slot: view for view in self._views(shown, excluded=frozenset())}
        encoders = [
            view.encoder if self._boot_at(slot) in holders else view.encoder.later(prepare_s)
            for slot, view in views.items()
        ]
        layouts = parts_of(self._layouts[shown.name])
        plan = choose_encoders([layouts[part].tokens for part in wanted], encoders, budget_s=self._budget_s)
        for shard in () if plan is None else plan.shards:
            mine = [wanted[index] for index in shard.images]
            if self._boot_at(shard.slot) in holders:
                for part in mine:
                    self._begin(replace(shown, part=part), layouts[part], self._fleet.at(shard.slot))
            else:
                self._send(self._open_look(replace(shown, part=mine[0]), tuple(mine)), views[shard.slot])

    def _open_look(self, shown: Shown, parts: tuple[int, ...], *, avoid: AbstractSet[BootId] = frozenset()) -> _Look:
        answer: asyncio.Future[ImageLayout] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_retrieve)
        is_unknown = shown.name not in self._layouts
        look = _Look(shown, parts, answer, avoid=frozenset(avoid), is_unknown=is_unknown)
        self._by_key.update(dict.fromkeys(look.keys, look))
        return look

    def _close_look(self, look: _Look) -> None:
        for key in look.keys:
            self._by_key.pop(key, None)

    def _boot_at(self, slot: int) -> BootId:
        return self._fleet.at(slot).info.boot

    def choose(
        self, shown: Shown, *, avoid: AbstractSet[BootId] = frozenset(), excluded: AbstractSet[BootId] = frozenset()
    ) -> EncoderView | None:
        """The best encode worker for a picture, if there is one: who has its embeddings, else who has looked at it,
        else the cheapest that is in time, or who is done first (`policy/encoding.py`).

        Those of `avoid` only if there is no other, those of `excluded` never.
        """
        views = list(self._views(shown, excluded=excluded | avoid)) or list(self._views(shown, excluded=excluded))
        near = [view for view in views if view.cached] or [view for view in views if view.prepared] or views
        layout = self._part(shown)
        tokens = LOOK_TOKENS if layout is None else layout.tokens
        plan = choose_encoders((tokens,), [view.encoder for view in near], budget_s=self._budget_s)
        return None if plan is None else next(view for view in near if view.slot == plan.shards[0].slot)

    def _part(self, shown: Shown) -> ImageLayout | None:
        layout = self._layouts.get(shown.name)
        return None if layout is None else parts_of(layout)[shown.part]

    def _views(self, shown: Shown, *, excluded: AbstractSet[BootId]) -> Iterator[EncoderView]:
        layout, cached, wanted = self._part(shown), dict[int, int](), 1
        if layout is not None:
            hashes = extend_chain(shown.root, embedding_tokens(layout.digest, layout.tokens))
            cached, wanted = self._fleet.index.match(hashes), len(hashes) * HASH_UNIT_TOKENS
        looks = Counter(look.member.slot for look in self._open.values() if look.member is not None)
        queued: Counter[int] = Counter()
        for member, count in self._encoding.values():
            queued[member.slot] += count
        for member in self._fleet.encoders:
            if not member.is_ready or member.info.boot in excluded:
                continue
            slot = member.slot
            yield EncoderView(
                cached=cached.get(slot, 0) >= wanted,
                prepared=self._seen_by.get(shown.key) == member.info.boot,
                encoder=self._encoder(
                    member, tokens=max(member.load.waiting_prefill_tokens, queued[slot]), looks=looks[slot]
                ),
            )

    def _encoder(self, member: Member, *, tokens: int, looks: int) -> Encoder:
        """One encode worker as its class's steps have shown it; `tokens` embeddings and `looks` pictures wait there.

        The slowest of a class speaks for all: those that have encoded nothing yet are only thought to be fast. What
        runs on the same GPU waits while it encodes: so E-P-D, EP-D, ED-P or all in one is chosen image by image.
        """
        table, slot = self._fleet.table, member.slot
        alike = [one.slot for one in self._fleet.encoders if table.gpu_class[one.slot] == table.gpu_class[slot]]
        curve = EncodeCurve(
            batch_s=max(float(table.base_s[one]) for one in alike),
            image_s=0.0,
            token_s=max(TOKEN_S_MIN, *(float(table.prefill_token_s[one]) for one in alike)),
        )
        host = None if member.info.beside is None else self._fleet.find(member.info.beside)
        return Encoder(
            slot=slot,
            role=member.info.role if host is None else host.info.role,
            curve=curve,
            wait_s=curve.token_s * (tokens + LOOK_TOKENS * looks),
            price_per_s=float(table.price_per_s[slot]),
            decodes=0 if host is None else host.load.running_sequences,
            slack_s=self._tpot_s,
        )

    def _send(self, look: _Look, view: EncoderView | None) -> None:
        """Ask an encode worker; there may be none that has not failed."""
        if view is None or len(look.failed) >= LOOKS_MAX:
            self._close_look(look)
            if not look.answer.done():
                why = f"{len(look.failed)} encode workers could not look at it" if look.failed else "none is ready"
                look.answer.set_exception(NoWorkerError(f"{look.shown.field}: {why}; try again"))
            return
        look.member, look.sequence, look.sent_s = self._fleet.at(view.slot), self._new_sequence(), self._now_s()
        self._open[look.sequence] = look
        shown = look.shown
        message = pb.Look(
            sequence=look.sequence,
            epoch=EPOCH,
            router=self._router,
            request=f"look {shown.name.hex()}",
            picture=shown.data,
            root=shown.root,
            field=shown.field,
            part=shown.part,
            side_max=shown.side_max,
        )
        look.member.link.send(pb.RouterMessage(look=message))

    def _begin(self, shown: Shown, layout: ImageLayout, member: Member) -> None:
        """Have a worker that has looked at a picture encode one more part of it, for whoever asks next."""
        sequence = self._new_sequence()
        self._note(shown, layout, member, sequence)
        state = image_state(
            layout, sequence=sequence, viewer=sequence, root=shown.root, router=self._router, purpose="begun",
            max_tokens=1,
        )  # fmt: skip
        member.link.send(orders.start(state, None))

    def _note(self, shown: Shown, layout: ImageLayout, member: Member, sequence: SequenceId) -> None:
        _remember(self._seen_by, shown.key, member.info.boot, most=SEEN_MAX)
        self._encoding[sequence] = (member, layout.tokens)

    # ---------------------------------------------------------------- what workers say

    def owns(self, sequence: SequenceId) -> bool:
        """Whether it is the sequence of a picture being looked at, or encoded for whoever asks next."""
        return sequence in self._open or sequence in self._encoding

    def on_looked(self, member: Member, looked: pb.Looked) -> None:
        """A picture is prepared; it is being encoded from here on."""
        look = self._open.pop(SequenceId(looked.sequence), None)
        if look is None or look.member is not member:
            return
        self._close_look(look)
        layout = ImageLayout(
            digest=looked.digest,
            tokens=looked.tokens,
            rows=looked.rows,
            columns=looked.columns,
            tile_rows=looked.tile_rows,
            tile_columns=looked.tile_columns,
            tile_tokens=looked.tile_tokens,
        )
        _remember(self._layouts, look.shown.name, layout, most=LAYOUTS_MAX)
        shown, parts = look.shown, parts_of(layout)
        picture = shown.root, shown.name
        _remember(self._holders, picture, self._holders.get(picture, frozenset()) | {member.info.boot}, most=SEEN_MAX)
        self._note(shown, parts[shown.part], member, look.sequence)
        if look.is_unknown:
            others = [part for part in range(len(parts)) if part != shown.part]
            self.share(shown, others, prepare_s=looked.prepare_s)
        for part in look.parts[1:]:
            self._begin(replace(shown, part=part), parts[part], member)
        if not look.answer.done():
            look.answer.set_result(layout)

    def on_encoded(self, sequence: SequenceId) -> None:
        """The image's embeddings are in its encode worker's cache."""
        self._encoding.pop(sequence, None)

    def on_failed(self, sequence: SequenceId, failed: pb.SequenceFailed) -> None:
        """It could not be looked at, or not encoded."""
        self._encoding.pop(sequence, None)  # whoever wants it delivered finds out, and looks again
        look = self._open.pop(sequence, None)
        if look is None:
            return
        if failed.code == InvalidRequestError.code.value:
            problem, _, remedy = failed.message.removeprefix(f"{failed.field}: ").partition("; ")
            self._refuse(look, InvalidRequestError(field=failed.field, problem=problem, remedy=remedy))
        else:
            self._again(look)

    def on_lost(self, member: Member) -> None:
        """An encode worker is gone: others look at what it has not looked at."""
        self._encoding = {key: value for key, value in self._encoding.items() if value[0] is not member}
        for look in [look for look in self._open.values() if look.member is member]:
            del self._open[look.sequence]
            self._again(look)

    def tick(self) -> None:
        """Encode workers that do not answer are asked no longer."""
        late_s = self._now_s() - LOOK_S_MAX
        for look in [look for look in self._open.values() if look.sent_s < late_s]:
            del self._open[look.sequence]
            assert look.member is not None
            look.member.cancel(look.sequence, EPOCH)
            self._again(look)

    def _again(self, look: _Look) -> None:
        if look.member is not None:
            look.failed.add(look.member.info.boot)
        look.member = None
        self._send(look, self.choose(look.shown, avoid=look.avoid, excluded=look.failed))

    def _refuse(self, look: _Look, error: SluiceError) -> None:
        self._close_look(look)
        if not look.answer.done():
            look.answer.set_exception(error)


def _retrieve(answer: "asyncio.Future[ImageLayout]") -> None:
    """Who asked may be gone: a failure that nobody reads is none."""
    if not answer.cancelled():
        answer.exception()


def _remember(memory: "OrderedDict[K, V]", key: K, value: V, *, most: int) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > most:
        memory.popitem(last=False)
