"""What arrives when: the requests of a trace as columns, ready to be replayed at any rate.

Decides nothing and reads no files (`traces/` does). Lengths are tokens, times seconds from the
first possible arrival. Next: `trace_source.py` for where workloads come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from sluice.errors import ConfigError

FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests in order of arrival; one entry of every column each."""

    name: str
    arrival_s: FloatColumn
    prompt_tokens: IntColumn
    output_tokens: IntColumn
    unit_tokens: int = 512  # that one hash id stands for
    hash_ids: Sequence[Sequence[int]] = ()  # per request, of the full units of its prompt, chained; () without any
    images: IntColumn = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # per request; empty: no images
    image_tokens: IntColumn = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # of the prompt, per request
    slo_class: IntColumn = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # number of its class; or empty

    def __post_init__(self) -> None:
        sizes = {len(self.arrival_s), len(self.prompt_tokens), len(self.output_tokens)}
        assert len(sizes) == 1
        if len(self.arrival_s) == 0:
            raise ConfigError(f"--trace {self.name}: has no requests; check its limits and its length filter")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """From the first arrival to one mean gap after the last, so that rate * duration = requests."""
        count = len(self)
        if count == 1:
            return max(1e-9, float(self.arrival_s[0]))
        return float(self.arrival_s[-1] - self.arrival_s[0]) * count / (count - 1)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self) / max(1e-9, self.duration_s)

    def at_rate(self, rate: float) -> "Workload":
        """The same requests, arrivals stretched or squeezed to this many per second; bursts stay bursts."""
        if rate <= 0.0:
            raise ConfigError(f"--rate: is {rate}; use requests per second above 0")
        factor = self.rate / rate
        return replace(self, arrival_s=(self.arrival_s - self.arrival_s[0]) * factor)

    def first(self, count: int) -> "Workload":
        """Only the first `count` requests."""
        return self._select(np.arange(min(count, len(self))))

    def within(self, duration_s: float) -> "Workload":
        """Only those that arrive in the first `duration_s` seconds."""
        return self._select(np.flatnonzero(self.arrival_s - self.arrival_s[0] <= duration_s))

    def no_longer_than(self, total_tokens: int) -> "Workload":
        """Only requests whose prompt and output have at most this many tokens together."""
        return self._select(np.flatnonzero(self.prompt_tokens + self.output_tokens <= total_tokens))

    def with_classes(self, shares: Sequence[float], *, seed: int) -> "Workload":
        """Every request is given an SLO class, number i with probability `shares[i]`, whatever its lengths."""
        generator = np.random.default_rng((seed, len(self)))
        numbers = generator.choice(len(shares), size=len(self), p=np.array(shares) / sum(shares))
        return replace(self, slo_class=numbers.astype(np.int64))

    def resampled(self, seed: int) -> "Workload":
        """Another draw of the same kind: the gaps between arrivals keep their values and their neighbours in
        blocks of about 50 (so that bursts stay), in another order; requests follow likewise unless they share
        prefixes, whose order must stay. Seed 0 is the trace itself."""
        if seed == 0:
            return self
        generator = np.random.default_rng(seed)
        gaps = np.diff(self.arrival_s, prepend=self.arrival_s[0])
        arrival_s = np.cumsum(gaps[_blocks_in_another_order(len(self), generator)])
        moved = replace(self, arrival_s=arrival_s)
        if self.hash_ids:
            return moved
        order = _blocks_in_another_order(len(self), generator)
        return replace(moved._select(order), arrival_s=arrival_s)  # noqa: SLF001 - its own class

    def tokens_of_images(self, index: int) -> Sequence[int]:
        """How many of a prompt's tokens each of its images is: equal shares, for traces tell their sum alone."""
        images = int(self.images[index]) if len(self.images) else 0
        total = int(self.image_tokens[index]) if images else 0
        return tuple(total // images + (number < total % images) for number in range(images)) if total else ()

    def _select(self, rows: npt.NDArray[np.intp]) -> "Workload":
        return replace(
            self,
            arrival_s=self.arrival_s[rows],
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            hash_ids=[self.hash_ids[row] for row in rows] if self.hash_ids else (),
            images=self.images[rows] if len(self.images) else self.images,
            image_tokens=self.image_tokens[rows] if len(self.image_tokens) else self.image_tokens,
            slo_class=self.slo_class[rows] if len(self.slo_class) else self.slo_class,
        )


def _blocks_in_another_order(count: int, generator: np.random.Generator) -> npt.NDArray[np.intp]:
    """0 .. count-1, in blocks whose order is drawn."""
    blocks = max(1, count // 50)
    edges = np.linspace(0, count, blocks + 1).astype(np.intp)
    order = generator.permutation(blocks)
    return np.concatenate([np.arange(edges[block], edges[block + 1]) for block in order])
