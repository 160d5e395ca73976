"""A request's pictures, from where the client put them to how its prompt lays them out.

Reads their bytes (`picture_reader.py`), bounds how many bytes all requests hold, and has encode workers look at
them (`encode_desk.py`). Decides nothing about prompts. Next: `intake.py`, who asks.
"""

from collections.abc import Sequence

from sluice.clock import Clock
from sluice.domain.ids import BlockHash
from sluice.errors import InvalidRequestError
from sluice.router.encode_desk import EncodeDesk
from sluice.router.job import Picture
from sluice.router.picture_reader import PictureReader
from sluice.router.picture_source import PictureSource, RememberedPicture


class Gallery:
    """The pictures of one router's requests."""

    def __init__(self, reader: PictureReader, desk: EncodeDesk, clock: Clock) -> None:
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
        seen = iter(await self._desk.pictures([(file.field, file.data) for file in files], root=root))
        pictures = tuple(remembered[at] if at in remembered else next(seen) for at in range(len(sources)))
        return pictures, self._now_s() - started_s

    def _recall(self, source: RememberedPicture, *, root: BlockHash) -> Picture:
        picture = self._desk.recall(source.name, field=source.field, root=root)
        if picture is None:
            problem = "names a picture that no encode worker has"
            raise InvalidRequestError(field=source.field, problem=problem, remedy="send the bytes of its file")
        return picture
