"""A request's pictures, from where the client put them to how its prompt lays them out.

Reads their bytes (`picture_reader.py`), bounds how many bytes all requests hold, and has encode workers look at
them (`encode_desk.py`). Decides nothing about prompts. Next: `intake.py`, who asks.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sluice.clock import Clock
from sluice.domain.ids import BlockHash
from sluice.errors import InvalidRequestError, OverloadedError
from sluice.router.encode_desk import EncodeDesk
from sluice.router.job import Picture
from sluice.router.picture_reader import PictureReader
from sluice.router.picture_source import Detail, PictureSource, RememberedPicture

RETRY_AFTER_S: Final = 1.0


class Gallery:
    """The pictures of one router's requests."""

    def __init__(self, reader: PictureReader, desk: EncodeDesk, clock: Clock, *, held_bytes_max: int) -> None:
        """`held_bytes_max` bounds the pictures of all running requests."""
        self._held_bytes_max = held_bytes_max
        self._held_bytes = 0
        self._at_hand: dict[tuple[BlockHash, bytes], list[Picture]] = {}  # one for each request that has it
        self._reader = reader
        self._now_s = clock.now_s
        self._desk = desk

    async def pictures(
        self, sources: Sequence[PictureSource | RememberedPicture], *, root: BlockHash, held: contextlib.ExitStack
    ) -> tuple[tuple[Picture, ...], float]:
        """The pictures, in order, and how many seconds they took; kept until `held` closes: somebody may have to encode
        them again.

        Raises InvalidRequestError, OverloadedError or NoWorkerError.
        """
        if not sources:
            return (), 0.0
        started_s = self._now_s()
        remembered = {
            at: self._recall(source, root=root, held=held)
            for at, source in enumerate(sources)
            if isinstance(source, RememberedPicture)
        }
        files = await self._reader.read([one for one in sources if not isinstance(one, RememberedPicture)])
        self._take(sum(len(file.data) for file in files), held)
        small = {at for at, file in enumerate(files) if file.detail is Detail.LOW}
        found = await self._desk.pictures([(file.field, file.data) for file in files], root=root, small=small)
        for picture in found:
            self._put_at_hand(root, picture, held)
        seen = iter(found)
        pictures = tuple(remembered[at] if at in remembered else next(seen) for at in range(len(sources)))
        return pictures, self._now_s() - started_s

    def _take(self, taken_bytes: int, held: contextlib.ExitStack) -> None:
        if self._held_bytes + taken_bytes > self._held_bytes_max:
            what = f"pictures of running requests take {self._held_bytes} of {self._held_bytes_max} bytes"
            raise OverloadedError(what, retry_after_s=RETRY_AFTER_S)
        self._held_bytes += taken_bytes
        held.callback(self._give_back, taken_bytes)

    def _give_back(self, freed_bytes: int) -> None:
        self._held_bytes -= freed_bytes

    def _put_at_hand(self, root: BlockHash, picture: Picture, held: contextlib.ExitStack) -> None:
        key = root, picture.name
        self._at_hand.setdefault(key, []).append(picture)
        held.callback(self._put_away, key, picture)

    def _put_away(self, key: tuple[BlockHash, bytes], picture: Picture) -> None:
        self._at_hand[key].remove(picture)
        if not self._at_hand[key]:
            del self._at_hand[key]

    @property
    def held_bytes(self) -> int:
        """How much the pictures of all requests take."""
        return self._held_bytes

    def _recall(self, source: RememberedPicture, *, root: BlockHash, held: contextlib.ExitStack) -> Picture:
        """A picture that is named: from a request that has it at hand, or from the encode worker that keeps it."""
        if twins := self._at_hand.get((root, source.name)):
            picture = replace(twins[0], field=source.field, is_known=True)
            self._take(len(picture.data), held)
            self._put_at_hand(root, picture, held)
            return picture
        recalled = self._desk.recall(source.name, field=source.field, root=root, held=held)
        if recalled is None:
            problem = "names a picture that no encode worker has"
            raise InvalidRequestError(field=source.field, problem=problem, remedy="send the bytes of its file")
        return recalled
