"""Turns a request's picture sources into bytes, within the request's limits, fetching what must be fetched.

What comes out begins like an image file; whether it is one, the encode worker finds out
(`engine/vision/picture.py`). Base64 is decoded on a thread of its own. Next: `picture_fetch.py`.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import assert_never

from sluice.config.router import PicturesConfig
from sluice.errors import InvalidRequestError
from sluice.router.link_rules import LinkRules
from sluice.router.picture_fetch import FetchLimits, LookUp, PictureFetcher
from sluice.router.picture_source import (
    Detail,
    InlinePicture,
    LinkedPicture,
    PictureFormat,
    PictureSource,
    RawPicture,
    decode_inline,
    format_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFile:
    """One picture as a file. `field` is where the request names it; `data` is not decoded yet."""

    field: str
    detail: Detail
    format: PictureFormat
    data: bytes


class PictureReader:
    """Reads the pictures of one router's requests. Create it inside a running loop."""

    def __init__(self, config: PicturesConfig, *, look_up: LookUp | None = None) -> None:
        """Raises ConfigError for hosts or networks that are none."""
        self._config = config
        limits = FetchLimits(
            time_s=config.fetch_s,
            redirects_max=config.redirects_max,
            running_max=config.fetches_max,
            waiting_max=config.fetches_waiting_max,
        )
        self._fetcher = PictureFetcher(LinkRules.parse(config.hosts, config.networks), limits, look_up=look_up)
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sluice-pictures")

    async def close(self) -> None:
        """Stop fetching and decoding."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._fetcher.close()

    async def read(self, sources: Sequence[PictureSource]) -> tuple[PictureFile, ...]:
        """The files of `sources`, in order. Raises InvalidRequestError for the first bad one, OverloadedError.

        Links are followed at the same time; the first failure stops the others.
        """
        config = self._config
        if len(sources) > config.per_request_max:
            problem = f"is picture {config.per_request_max + 1} of {len(sources)}"
            raise _refusal(sources[config.per_request_max].field, problem, f"send at most {config.per_request_max}")
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._read(source), name=f"picture {source.field}") for source in sources]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        files = tuple(task.result() for task in tasks)
        total_bytes = 0
        for file in files:
            total_bytes += len(file.data)
            if total_bytes > config.request_bytes_max:
                problem = f"takes the request's pictures to {total_bytes} bytes"
                raise _refusal(file.field, problem, f"send at most {config.request_bytes_max} in one request")
        return files

    async def _read(self, source: PictureSource) -> PictureFile:
        data = await self._bytes(source)
        found = format_of(data)
        if found is None:
            known = ", ".join(known.name for known in PictureFormat)
            raise _refusal(source.field, "does not lead to a picture" if data else "is empty", f"send one of {known}")
        return PictureFile(field=source.field, detail=source.detail, format=found, data=data)

    async def _bytes(self, source: PictureSource) -> bytes:
        bytes_max = self._config.file_bytes_max
        match source:
            case InlinePicture():
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(
                    self._threads, lambda: decode_inline(source, file_bytes_max=bytes_max)
                )
            case RawPicture():
                if len(source.data) > bytes_max:
                    raise _refusal(source.field, f"has {len(source.data)} bytes", f"send at most {bytes_max}")
                return source.data
            case LinkedPicture():
                return await self._fetcher.fetch(source, bytes_max=bytes_max)
            case _ as never:
                assert_never(never)


def _refusal(field: str, problem: str, remedy: str) -> InvalidRequestError:
    return InvalidRequestError(field=field, problem=problem, remedy=remedy)
