"""The images one simulated instance has still to encode, and the batch it encodes now.

First come, first served; a batch takes images while their embeddings fit, one at least. Never reads a
clock. Next: `instance.py`, whose steps run the batches; `encodes.py`, which sends images here.
"""

from collections import deque
from typing import NamedTuple

from sluice.capacity.encode_curve import EncodeCurve
from sluice.simulator.sequence import SimSequence


class SimImage(NamedTuple):
    """One image of one request. `attempt` is the sequence's when it was sent: an older one's images are void."""

    sequence: SimSequence
    tokens: int  # embeddings that come out
    attempt: int


class ImageQueue:
    """Images of one instance. Without a curve it takes none."""

    def __init__(self, curve: EncodeCurve | None, *, tokens_max: int) -> None:
        self._curve = curve
        self._tokens_max = tokens_max
        self._waiting: deque[SimImage] = deque()
        self._batch: list[SimImage] = []
        self._waiting_s = 0.0
        self._batch_s = 0.0
        self.encoded = 0  # images so far
        self.busy_s = 0.0

    @property
    def is_empty(self) -> bool:
        """Nothing waits or runs."""
        return not self._waiting and not self._batch

    @property
    def is_encoding(self) -> bool:
        """Whether a batch runs."""
        return bool(self._batch)

    @property
    def work_s(self) -> float:
        """Seconds until all that is here is encoded, if nothing else ran; the batch that runs counts whole."""
        return self._batch_s + self._waiting_s

    def put(self, image: SimImage) -> None:
        """Wait at the end."""
        self._waiting.append(image)
        self._waiting_s += self._alone_s(image)

    def next_batch_s(self) -> float:
        """Take the next batch; returns how long it takes, 0 when nothing waits."""
        assert not self._batch
        tokens = 0
        while self._waiting and (not self._batch or tokens + self._waiting[0].tokens <= self._tokens_max):
            image = self._waiting.popleft()
            self._waiting_s -= self._alone_s(image)
            tokens += image.tokens
            self._batch.append(image)
        if not self._waiting:
            self._waiting_s = 0.0  # no rounding is carried on
        assert self._curve is not None or not self._batch
        self._batch_s = self._curve.encode_s([image.tokens for image in self._batch]) if self._curve else 0.0
        return self._batch_s

    def finish_batch(self) -> list[SimImage]:
        """The batch's embeddings are there."""
        done, self._batch = self._batch, []
        self.encoded += len(done)
        self.busy_s += self._batch_s
        self._batch_s = 0.0
        return done

    def clear(self) -> list[SimImage]:
        """All is lost; returns what was here."""
        lost = [*self._batch, *self._waiting]
        self._batch, self._batch_s, self._waiting_s = [], 0.0, 0.0
        self._waiting.clear()
        return lost

    def _alone_s(self, image: SimImage) -> float:
        assert self._curve is not None, "images go to instances with a vision tower"
        return self._curve.encode_s([image.tokens])
