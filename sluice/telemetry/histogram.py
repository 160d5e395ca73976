"""A histogram cheap enough for every token: one bisection and three additions per value.

Collected by prometheus_client like its own kinds. Theirs takes a lock and a scan per value;
counting a message's gaps together costs a fifth of that, which at one gap per streamed token
is two percent of the router (`benchmarks/telemetry.py`). Decides no names. Next: `metrics.py`.
"""

import math
import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class HistogramChild:
    """The counts of one label combination. Any thread may observe."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count one value, in the unit of the metric's name."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def observe_many(self, values: Iterable[float]) -> None:
        """Count several values under one lock."""
        counts, bounds = self._counts, self._bounds
        with self._lock:
            for value in values:
                counts[bisect_left(bounds, value)] += 1
                self._sum += value

    def snapshot(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative (upper bound, count) pairs up to +Inf, and the sum of all values."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        pairs: list[tuple[str, float]] = []
        seen = 0
        for bound, count in zip((*self._bounds, math.inf), counts, strict=True):
            seen += count
            pairs.append(("+Inf" if bound == math.inf else str(float(bound)), float(seen)))
        return pairs, total


class Histogram(Collector):
    """A family of HistogramChild, one per label combination, created on first use."""

    def __init__(self, name: str, documentation: str, *, labels: Sequence[str], bounds: Sequence[float]) -> None:
        assert list(bounds) == sorted(set(bounds)), "bounds grow"
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._children: dict[tuple[str, ...], HistogramChild] = {}

    def labels(self, *values: str) -> HistogramChild:
        """The child for these label values, in the order the labels were declared; keep it, do not look it up again."""
        assert len(values) == len(self._labels), "one value per label"
        return self._children.setdefault(values, HistogramChild(self._bounds))

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, child in list(self._children.items()):
            buckets, total = child.snapshot()
            family.add_metric(values, buckets=buckets, sum_value=total)
        yield family
