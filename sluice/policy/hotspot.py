"""Notices prompts so popular that the workers caching them would drown in them.

The two-phase rule of LMETRIC (OSDI 2026): first an alarm, when the share x of recent requests that
the holders M of a prefix attract exceeds their share of the workers, `x / (1 - x) > |M| / |M'|`; then,
once holders won 2|M| times in a row, they are barred from one choice, which spreads the prefix to another
worker. Keeps a window of recent requests, nothing else. Next: `lmetric.py`.
"""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Final

WINDOW_REQUESTS: Final = 256
REQUESTS_MIN: Final = 16
"""Fewer say nothing about popularity."""

_NOBODY: Final[frozenset[int]] = frozenset()


class HotspotDetector:
    """Watches who holds the prefixes of recent requests. One owner."""

    def __init__(self) -> None:
        self._window: deque[frozenset[int]] = deque()
        self._count: Counter[frozenset[int]] = Counter()
        self._wins: Counter[frozenset[int]] = Counter()  # in a row

    def barred(self, cached_tokens: Mapping[int, int], *, workers: int) -> frozenset[int]:
        """Who may not take the request whose prefix `cached_tokens` describes; empty nearly always."""
        holders = _holders(cached_tokens)
        others = workers - len(holders)
        if not holders or others <= 0 or len(self._window) < REQUESTS_MIN:
            return _NOBODY
        share = self._count[holders] / len(self._window)
        is_hot = share * others > (1.0 - share) * len(holders)
        return holders if is_hot and self._wins[holders] >= 2 * len(holders) else _NOBODY

    def chose(self, slot: int, cached_tokens: Mapping[int, int]) -> None:
        """A request was placed; its prompt is computed at `slot`."""
        holders = _holders(cached_tokens)
        self._window.append(holders)
        self._count[holders] += 1
        if len(self._window) > WINDOW_REQUESTS:
            old = self._window.popleft()
            self._count[old] -= 1
            if not self._count[old]:
                del self._count[old]
                self._wins.pop(old, None)
        if holders:
            self._wins[holders] = self._wins[holders] + 1 if slot in holders else 0


def _holders(cached_tokens: Mapping[int, int]) -> frozenset[int]:
    """Who has at least half of the longest match: the class of the prompt."""
    if not cached_tokens:
        return _NOBODY
    most = max(cached_tokens.values())
    return frozenset(slot for slot, tokens in cached_tokens.items() if 2 * tokens >= most)
