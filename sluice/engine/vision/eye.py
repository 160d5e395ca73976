"""From the bytes of an image file to something the vision tower takes, and how a prompt will lay it out.

Checks, decodes and prepares on the caller's thread, which is never the event loop's; what it prepares waits in a
bounded store until the tower's turn. Next: `picture.py` for what is refused, `preprocessor.py`, `vision_runner.py`.
"""

import hashlib
from pathlib import Path
from typing import Final

from sluice.domain.block_hash import extend_chain
from sluice.domain.ids import BlockHash
from sluice.domain.image import IMAGE_DIGEST_BYTES, ImageLayout, embedding_tokens, parts_of, tile_runs
from sluice.engine.vision.picture import PictureLimits, decode_picture
from sluice.engine.vision.prepared_store import PreparedStore
from sluice.engine.vision.preprocessor import PreparedImage, Preprocessor

LIMITS: Final = PictureLimits()


class Eye:
    """The image processor of one model. `look` may be called on several threads."""

    def __init__(self, directory: Path, *, fingerprint: str, prepared: PreparedStore[PreparedImage]) -> None:
        """`fingerprint` names the model's embeddings. Raises ModelLoadError."""
        self._preprocessor = Preprocessor(directory)
        self._maker = fingerprint.encode() + self._preprocessor.fingerprint
        self._prepared = prepared

    def look(self, data: bytes, *, root: BlockHash, field: str, side_max: int = 0) -> ImageLayout:
        """Prepare a picture for the tower, each part by itself; one with a side of more than `side_max` pixels is made
        smaller first, unless that is 0. Raises InvalidRequestError naming `field`."""
        picture = decode_picture(data, limits=LIMITS, field=field, side_max=side_max)
        image = self._preprocessor.prepare(picture, field=field)
        digest = hashlib.blake2b(self._maker + picture.digest, digest_size=IMAGE_DIGEST_BYTES).digest()
        layout = self._preprocessor.layout(image, digest=digest)
        for part, (first, end) in zip(parts_of(layout), tile_runs(layout), strict=True):
            name = extend_chain(root, embedding_tokens(part.digest, part.tokens))[-1]
            self._prepared.put(name, image.tiles(first, end, tokens=part.tokens))
        return layout
