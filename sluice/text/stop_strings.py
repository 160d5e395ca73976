"""Finds stop strings in a stream of text, wherever its pieces are cut.

The first stop string to be completed ends the text; it and what follows are not emitted. Text
that may become a stop string is held back until it cannot. The result does not depend on how
the text was cut into pieces. Pure. Next: `router/output.py`.
"""

from collections.abc import Sequence


class StopFinder:
    """Watches one output. `is_stopped` turns true once and for all."""

    __slots__ = ("_held", "_longest", "_stops", "is_stopped")

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "an empty stop string would end every text before it starts"
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.is_stopped = False

    def push(self, piece: str) -> str:
        """The text that can be shown after `piece`; maybe empty."""
        if self.is_stopped or not piece:
            return ""
        text = self._held + piece
        end = self._first_end(text)
        if end is not None:
            self.is_stopped = True
            self._held = ""
            return text[: end[1]]
        keep = self._possible_start(text)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """What was held back and turned out to be no stop string. The text is over."""
        held, self._held = self._held, ""
        return held

    def _first_end(self, text: str) -> tuple[int, int] | None:
        """(end, start) of the stop string that is completed first; of two, the longer one."""
        first: tuple[int, int] | None = None
        for stop in self._stops:
            start = text.find(stop)
            if start >= 0 and (first is None or (start + len(stop), start) < first):
                first = (start + len(stop), start)
        return first

    def _possible_start(self, text: str) -> int:
        """Where the longest tail begins that a stop string could still grow from."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            tail = text[start:]
            if any(stop.startswith(tail) for stop in self._stops):
                return start
        return len(text)
