"""A dispatcher whose encode workers are played by the test, and requests with pictures for it.

Next: `dispatch_desk.py`, which plays the other workers.
"""

import asyncio
import hashlib
from typing import Final

from sluice.domain.block_hash import extend_chain
from sluice.domain.ids import BootId, RequestId, WorkerId
from sluice.domain.image import ImageSpan, run_of
from sluice.domain.load import WorkerInfo
from sluice.domain.role import Role
from sluice.domain.sampling import SamplingParams
from sluice.router.fleet import Member
from sluice.router.job import Job, Picture, Prompt
from sluice.router.output import Delivery
from sluice.router.request import Request
from sluice.testing.dispatch_desk import ROOT, Desk, RecordedLink
from sluice.wire.gen import sluice_pb2 as pb

IMAGE_TOKENS: Final = 20
TILED: Final = b"tiled"
"""What begins a file of which the played encode workers make tiles: 3 x 4 of them and the whole, in four parts."""
TILE_TOKENS: Final = 6


class ImageDesk(Desk):
    """Its workers read images; `encoder` adds one that makes embeddings."""

    def encoder(self, name: str) -> Member:
        """An encode worker joins."""
        return self._add(name, Role.ENCODE, reads=False)

    def reader(self, name: str, role: Role = Role.MIXED) -> Member:
        """A worker joins that reads images."""
        return self._add(name, role, reads=True)

    def _add(self, name: str, role: Role, *, reads: bool) -> Member:
        info = WorkerInfo(
            worker=WorkerId(name),
            boot=BootId(f"{name}-boot"),
            role=role,
            model="m",
            model_fingerprint="f" if reads else "eye",
            kv_address=f"{name}:1",
            block_tokens=16,
            blocks=1000,
            sequence_tokens_max=4096,
            batch_sequences_max=8,
            device="cpu",
            image_address=f"{name}:2" if reads else "",
            image_boot=BootId(f"{name}-boot-images") if reads else None,
            image_fingerprint="eye",
        )
        member = self.dispatcher.join(info, RecordedLink())
        self.beat(member)
        return member

    def only(self, member: Member, kind: str) -> list[pb.RouterMessage]:
        """What the worker was told of one kind since last asked; the rest is forgotten."""
        return [message for message in self.told(member) if message.WhichOneof("body") == kind]

    def looked(self, member: Member, look: pb.Look) -> None:
        """The encode worker has prepared the picture, and encodes it."""
        message = pb.Looked(sequence=look.sequence, epoch=look.epoch, digest=digest_of(look.picture))
        message.tokens, message.rows, message.columns = IMAGE_TOKENS, 1, IMAGE_TOKENS
        if look.picture.startswith(TILED):
            message.tile_rows, message.tile_columns, message.tile_tokens = 3, 4, TILE_TOKENS
            message.tokens = message.columns = 13 * TILE_TOKENS
        self.dispatcher.on_message(member, pb.WorkerMessage(looked=message))

    def failed(
        self, member: Member, sequence: int, code: str = "internal", *, field: str = "", message: str = ""
    ) -> None:
        """The worker gives a sequence up."""
        failed = pb.SequenceFailed(sequence=sequence, epoch=0, code=code, field=field, message=message or "it broke")
        self.dispatcher.on_message(member, pb.WorkerMessage(failed=failed))

    async def submit_pictures(self, *files: bytes, request: str = "r") -> Request:
        """A request with these pictures, once somebody has looked at all of them."""
        pictures = await self.dispatcher.desk.pictures([(f"p[{at}]", data) for at, data in enumerate(files)], root=ROOT)
        job = Job(
            request=RequestId(request),
            prompts=(prompt_of(pictures),),
            n=1,
            sampling=SamplingParams(max_tokens=50, seed=7),
            stops=(),
            timeout_s=60.0,
        )
        return self.dispatcher.submit(job, Delivery.EACH_STEP)

    async def submit_looked_at(self, encoder: Member, *files: bytes, request: str = "r") -> Request:
        """The same, `encoder` looking at every one of them."""
        asking = asyncio.ensure_future(self.submit_pictures(*files, request=request))
        await asyncio.sleep(0)
        for message in self.only(encoder, "look"):
            self.looked(encoder, message.look)
        return await asking


def digest_of(data: bytes) -> bytes:
    """What the played encode workers call a picture."""
    return hashlib.blake2b(data, digest_size=16).digest()


def prompt_of(pictures: tuple[Picture, ...]) -> Prompt:
    """A few words before each picture."""
    tokens: list[int] = []
    spans: list[ImageSpan] = []
    for picture in pictures:
        tokens += [5, 6, 7]
        run, parts = run_of(picture.layout, len(tokens))
        tokens += run
        spans += parts
    return Prompt(
        tokens=(*tokens, 8),
        root=ROOT,
        unit_hashes=tuple(extend_chain(ROOT, tokens)),
        images=tuple(spans),
        pictures=pictures,
    )
