"""Memory that a thread of its own has touched before anybody needs it.

A sequence that comes with its KV is gathered into memory of its own in its first step. Pages that are
touched for the first time cost several times what filling them does, and the sequence's client would wait
for that. So they are touched before the sequence's KV is on its way, with rests: nobody's company should
wait for it. Of two pieces of work the larger one is done. Next: `kept_keys.py`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch

from sluice.engine.contract import always_ready

REST_FACTOR: Final = 4.0
"""The thread rests so many times as long as it works, until somebody needs what it makes."""


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

    _wish: Wish | None = None
    _made: list[torch.Tensor] = field(default_factory=list)
    _hurry: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def make(self, wish: Wish) -> Callable[[], bool]:
        """Begin to fulfil a wish, in place of a smaller one under way; a larger one goes on.

        Returns what says, on any thread, whether `take` would not wait.
        """
        thread = self._thread
        if thread is None or self._wish is None or wish.touched > self._wish.touched:
            self._hurry.set()  # a smaller one ends soon, and its memory is let go
            self._wish, self._made, self._hurry = wish, [], threading.Event()
            arguments = (wish, self._made, self._hurry)
            thread = self._thread = threading.Thread(target=_touch, args=arguments, name="memory", daemon=True)
            thread.start()
        elif 2 * wish.touched <= self._wish.touched:
            return always_ready
        return lambda: not thread.is_alive()

    def take(self, *, needed: int) -> list[torch.Tensor] | None:
        """What has been made, if it is ready; the caller owns it now.

        Who needs most of it waits for the rest of the work, which is less than doing all of it anew; 0 never waits.
        """
        if self._thread is None or self._wish is None:
            return None
        if 2 * needed > self._wish.touched:
            self._hurry.set()
            self._thread.join()
        if self._thread.is_alive():
            return None
        made, self._thread, self._made = self._made, None, []
        return made


def _touch(wish: Wish, made: list[torch.Tensor], hurry: threading.Event) -> None:
    storage = [torch.empty(wish.elements, dtype=wish.dtype) for _ in range(wish.layers)]
    for layer in storage:
        started_s = time.perf_counter()
        layer[: wish.touched].zero_()
        hurry.wait(REST_FACTOR * (time.perf_counter() - started_s))
    made.extend(storage)
