"""Pictures that are prepared and wait to be encoded: bounded in bytes, the oldest makes room.

Filled by whoever prepares (`encode_worker/looks.py`), read by the engine's thread (`vision_runner.py`); an image's
name is the last hash of its own sequence, so that tenants never meet. A picture that is gone is asked for again.
"""

import threading
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from sluice.domain.ids import BlockHash


class Sized(Protocol):
    """Something that takes memory."""

    @property
    def nbytes(self) -> int:
        """How much."""
        ...


P = TypeVar("P", bound=Sized)


class PreparedStore(Generic[P]):
    """Prepared images by name. Any thread may call it."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._images: OrderedDict[BlockHash, P] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, name: BlockHash, image: P) -> None:
        """Keep an image; older ones go if there are too many bytes. One that is larger than all room stays alone."""
        with self._lock:
            self._forget(name)
            self._images[name] = image
            self._bytes += image.nbytes
            while self._bytes > self._bytes_max and len(self._images) > 1:
                self._forget(next(iter(self._images)))

    def get(self, name: BlockHash) -> P | None:
        """The image, if it is still here."""
        with self._lock:
            return self._images.get(name)

    @property
    def total_bytes(self) -> int:
        """How much is kept."""
        return self._bytes

    def _forget(self, name: BlockHash) -> None:
        image = self._images.pop(name, None)
        if image is not None:
            self._bytes -= image.nbytes
