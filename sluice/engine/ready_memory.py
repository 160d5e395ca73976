"""Memory that a thread of its own has touched before anybody needs it.

A sequence that comes with its KV is gathered into memory of its own in its first step. Pages that are
touched for the first time cost several times what filling them does, and the sequence's client would wait
for that. So they are touched while the sequence's KV is still on its way. One piece of work at a time;
what is not ready in time is not waited for. Next: `kept_keys.py`.
"""

import threading
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Memory for every layer: `elements` of it, the first `touched` of which will be filled at first."""

    layers: int
    elements: int
    touched: int
    dtype: torch.dtype


@dataclass(slots=True)
class ReadyMemory:
    """At most one wish, under way or fulfilled. For one thread: the engine's."""

    _made: list[torch.Tensor] = field(default_factory=list)
    _thread: threading.Thread | None = None

    def make(self, wish: Wish) -> None:
        """Begin to fulfil a wish, unless one is under way."""
        if self._thread is None:
            self._made = []
            self._thread = threading.Thread(target=_touch, args=(wish, self._made), name="memory", daemon=True)
            self._thread.start()

    def take(self) -> list[torch.Tensor] | None:
        """What has been made, if it is ready; the caller owns it now."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread, made = None, self._made
        return made or None


def _touch(wish: Wish, made: list[torch.Tensor]) -> None:
    storage = [torch.empty(wish.elements, dtype=wish.dtype) for _ in range(wish.layers)]
    for layer in storage:
        layer[: wish.touched].zero_()
    made.extend(storage)
