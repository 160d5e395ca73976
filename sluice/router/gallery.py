"""A request's pictures, from where the client put them to how its prompt lays them out.

Reads their bytes (`picture_reader.py`), bounds how many bytes all requests hold, and has encode workers look at
them (`encode_desk.py`). Decides nothing about prompts. Next: `intake.py`, who asks.
"""

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sluice.clock import Clock
from sluice.domain.ids import BlockHash
from sluice.errors import InvalidRequestError, OverloadedError
from sluice.router.encode_desk import EncodeDesk
from sluice.router.job import Picture
from sluice.router.picture_reader import PictureReader
from sluice.router.picture_source import PictureSource, RememberedPicture

RETRY_AFTER_S: Final = 1.0


class Gallery:
    """The pictures of one router's requests."""

    def __init__(self, reader: PictureReader, desk: EncodeDesk, clock: Clock, *, held_bytes_max: int) -> None:
        """`held_bytes_max` bounds the pictures of all running requests."""
        self._held_bytes_max = held_bytes_max
        self._held_bytes = 0
        self._at_hand: weakref.WeakValueDictionary[tuple[BlockHash, bytes], Picture] = weakref.WeakValueDictionary()
        self._reader = reader
        self._now_s = clock.now_s
        self._desk = desk

    async def pictures(
        self, sources: Sequence[PictureSource | RememberedPicture], *, root: BlockHash
    ) -> tuple[tuple[Picture, ...], float]:
        """The pictures, in order, and how many seconds they took.

        Raises InvalidRequestError, OverloadedError or NoWorkerError.
        """
        if not sources:
            return (), 0.0
        started_s = self._now_s()
        remembered = {
            at: self._recall(source, root=root)
            for at, source in enumerate(sources)
            if isinstance(source, RememberedPicture)
        }
        files = await self._reader.read([one for one in sources if not isinstance(one, RememberedPicture)])
        total_bytes = sum(len(file.data) for file in files)
        if self._held_bytes + total_bytes > self._held_bytes_max:
            what = f"pictures of running requests take {self._held_bytes} of {self._held_bytes_max} bytes"
            raise OverloadedError(what, retry_after_s=RETRY_AFTER_S)
        self._held_bytes += total_bytes
        try:
            found = await self._desk.pictures([(file.field, file.data) for file in files], root=root)
        except BaseException:
            self._held_bytes -= total_bytes
            raise
        for picture in found:  # held for as long as anybody may have to encode it again
            weakref.finalize(picture, self._let_go, len(picture.data))
            self._at_hand[root, picture.name] = picture
        seen = iter(found)
        pictures = tuple(remembered[at] if at in remembered else next(seen) for at in range(len(sources)))
        return pictures, self._now_s() - started_s

    def _let_go(self, freed_bytes: int) -> None:
        self._held_bytes -= freed_bytes

    @property
    def held_bytes(self) -> int:
        """How much the pictures of all requests take."""
        return self._held_bytes

    def _recall(self, source: RememberedPicture, *, root: BlockHash) -> Picture:
        """A picture that is named: from a request that has it at hand, or from the encode worker that keeps it."""
        if (twin := self._at_hand.get((root, source.name))) is not None:
            return replace(twin, field=source.field, is_known=True)
        picture = self._desk.recall(source.name, field=source.field, root=root)
        if picture is None:
            problem = "names a picture that no encode worker has"
            raise InvalidRequestError(field=source.field, problem=problem, remedy="send the bytes of its file")
        return picture
