"""Embeddings that lie in one array, for tests of what reads them. `engine/embedding_store.py` has the real ones."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(slots=True, eq=False)
class ArrayRows:
    """Implements `engine.contract.EmbeddingRows` over [tokens, bytes]; counts how often it is closed."""

    array: npt.NDArray[np.uint8]
    closed: int = field(default=0)

    @property
    def tokens(self) -> int:
        return len(self.array)

    def rows(self, first: int, end: int) -> npt.NDArray[np.uint8]:
        assert not self.closed, "embeddings are not read after they were closed"
        return self.array[first:end]

    def close(self) -> None:
        self.closed += 1
