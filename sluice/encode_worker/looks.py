"""Pictures on their way into the engine: prepared off the event loop, told to the router, queued to be encoded.

    Look --bounded queue--> [threads: check, decode, resize, cut] --Looked--> router
                                                                 `--Start--> shell: encoded into the embedding cache

Everything else a router says goes to the shell unchanged: there an image is a sequence, and sending its
embeddings is a handoff (docs/adr/0014). Nothing of a picture outlives its look but what the engine keeps.
Next: `engine/vision/eye.py`, `worker/shell.py`.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from sluice.clock import Clock
from sluice.config.worker import ImagesConfig
from sluice.domain.ids import BlockHash, Epoch, RequestId, RouterId, SequenceId
from sluice.domain.image import ImageLayout, parts_of
from sluice.domain.image_sequence import image_sequence
from sluice.domain.sequence import SequenceState
from sluice.errors import InvalidRequestError, NoWorkerError, OverloadedError, SluiceError
from sluice.telemetry.metrics import WorkerMetrics
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.router_link import RouterLink
from sluice.worker.shell import Shell
from sluice.worker.step_rows import failure

log = logging.getLogger(__name__)

MIB: Final = 1024 * 1024
RETRY_AFTER_S: Final = 1.0


class Eye(Protocol):
    """Prepares pictures; `engine/vision/eye.py` documents it."""

    def look(self, data: bytes, *, root: BlockHash, field: str, side_max: int) -> ImageLayout: ...


class LookTable:
    """The pictures being prepared. One event loop."""

    def __init__(self, shell: Shell, eye: Eye, settings: ImagesConfig, metrics: WorkerMetrics, clock: Clock) -> None:
        self._shell = shell
        self._eye = eye
        self._metrics = metrics
        self._now_s = clock.now_s
        self._looks_max = settings.looks_max
        self._bytes_max = settings.looks_mib_max * MIB
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(max_workers=settings.threads, thread_name_prefix="sluice-look")

    @property
    def open(self) -> int:
        """How many pictures are being prepared, or wait for it."""
        return len(self._tasks)

    async def close(self) -> None:
        """Give up what has not been prepared."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def take(self, link: RouterLink, message: pb.RouterMessage) -> bool:
        """Whether it is a Look, which is then under way or refused."""
        if not message.HasField("look"):
            return False
        look = message.look
        try:
            self._admit(look)
        except SluiceError as error:
            link.send(failure(SequenceId(look.sequence), Epoch(look.epoch), error, is_unstarted=True))
            return True
        self._bytes += len(look.picture)
        task = asyncio.get_running_loop().create_task(self._look(link, look), name=f"look {look.sequence}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._on_done(look, done))
        return True

    # ---------------------------------------------------------------- one picture

    def _admit(self, look: pb.Look) -> None:
        """Raises SluiceError if this worker takes no pictures, or has too many."""
        if not self._shell.standing.admits_work:
            info = self._shell.info
            raise NoWorkerError(f"worker {info.worker} is {self._shell.standing.lifecycle.value}; look elsewhere")
        if len(self._tasks) >= self._looks_max or self._bytes + len(look.picture) > self._bytes_max:
            problem = f"{len(self._tasks)} pictures of {self._bytes} bytes wait to be prepared"
            raise OverloadedError(problem, retry_after_s=RETRY_AFTER_S)

    async def _look(self, link: RouterLink, look: pb.Look) -> None:
        sequence, epoch = SequenceId(look.sequence), Epoch(look.epoch)
        root, started_s = BlockHash(look.root), self._now_s()
        loop = asyncio.get_running_loop()
        try:
            layout = await loop.run_in_executor(
                self._threads,
                lambda: self._eye.look(look.picture, root=root, field=look.field, side_max=look.side_max),
            )
            part = _part(look, layout)
        except SluiceError as error:
            self._metrics.picture_refused()
            link.send(failure(sequence, epoch, error))
            return
        prepare_s = self._now_s() - started_s
        self._metrics.picture_prepared(seconds=prepare_s)
        link.send(pb.WorkerMessage(looked=_looked(look, layout, prepare_s=prepare_s)))
        start = pb.Start(state=convert.state_to_wire(_state(look, part)))
        self._shell.on_message(link, pb.RouterMessage(start=start))

    def _on_done(self, look: pb.Look, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._bytes -= len(look.picture)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s broke", task.get_name(), exc_info=error)


def _looked(look: pb.Look, layout: ImageLayout, *, prepare_s: float) -> pb.Looked:
    return pb.Looked(
        sequence=look.sequence,
        epoch=look.epoch,
        digest=layout.digest,
        tokens=layout.tokens,
        rows=layout.rows,
        columns=layout.columns,
        tile_rows=layout.tile_rows,
        tile_columns=layout.tile_columns,
        tile_tokens=layout.tile_tokens,
        prepare_s=prepare_s,
    )


def _part(look: pb.Look, layout: ImageLayout) -> ImageLayout:
    """What of the picture is to be encoded. Raises InvalidRequestError if there is no such part."""
    parts = parts_of(layout)
    if look.part >= len(parts):
        problem = f"has {len(parts)} parts, and part {look.part} was asked for"
        raise InvalidRequestError(field=look.field, problem=problem, remedy="send the picture again")
    return parts[look.part]


def _state(look: pb.Look, part: ImageLayout) -> SequenceState:
    """The part's own sequence, for nobody in particular: it ends when its embeddings are in the cache."""
    return image_sequence(
        part,
        sequence=SequenceId(look.sequence),
        viewer=SequenceId(look.sequence),
        request=RequestId(look.request),
        router=RouterId(look.router),
        epoch=Epoch(look.epoch),
        root=BlockHash(look.root),
        max_tokens=1,
        traceparent=look.traceparent,
    )
