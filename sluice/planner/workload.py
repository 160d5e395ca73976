"""A workload as the planner sees it: request sizes in buckets, each with its rate.

Groups requests by prompt and output length into at most 10 x 6 buckets, as Melange does
(arXiv 2404.14527, section 5); the edges are quantiles, finer towards long prompts, because the
tail is what misses objectives. Reads no file. Next: `throughput.py` for what one replica carries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from sluice.errors import ConfigError

INPUT_QUANTILES: Final = (0.15, 0.3, 0.45, 0.6, 0.72, 0.82, 0.9, 0.95, 0.985, 1.0)
OUTPUT_QUANTILES: Final = (0.25, 0.5, 0.7, 0.85, 0.95, 1.0)
REQUESTS_MAX: Final = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Requests of similar size. Means carry load, the longest prompt must meet its deadline."""

    input_tokens: int  # mean prompt length, image tokens included
    input_tokens_max: int
    output_tokens: int  # mean
    rate_per_s: float
    images: float = 0.0  # mean per request; 0: no encode phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What arrives, per second."""

    buckets: tuple[Bucket, ...]

    @property
    def rate_per_s(self) -> float:
        """Requests per second over all buckets."""
        return sum(bucket.rate_per_s for bucket in self.buckets)

    def at_rate(self, rate_per_s: float) -> "Workload":
        """The same mix of sizes, `rate_per_s` requests per second in all."""
        scale = rate_per_s / self.rate_per_s
        return Workload(buckets=tuple(replace(each, rate_per_s=each.rate_per_s * scale) for each in self.buckets))


def histogram(
    input_tokens: Sequence[int],
    output_tokens: Sequence[int],
    *,
    rate_per_s: float,
    images: Sequence[int] = (),
    input_quantiles: Sequence[float] = INPUT_QUANTILES,
    output_quantiles: Sequence[float] = OUTPUT_QUANTILES,
) -> Workload:
    """Bucket requests by size; row i of each sequence is one request, `images` may be left out.

    Raises ConfigError when there are no requests, too many, or the columns differ in length.
    """
    count = len(input_tokens)
    if count == 0 or count > REQUESTS_MAX:
        raise ConfigError(f"trace: {count} requests; give 1 to {REQUESTS_MAX}")
    if len(output_tokens) != count or (images and len(images) != count):
        raise ConfigError(f"trace: {count} prompt lengths but {len(output_tokens)} output lengths; give one of each")
    if not rate_per_s > 0:
        raise ConfigError(f"rate: {rate_per_s} requests/s; give a positive rate")
    prompts = np.maximum(1, np.asarray(input_tokens, dtype=np.int64))
    outputs = np.maximum(1, np.asarray(output_tokens, dtype=np.int64))
    pictures = np.asarray(images, dtype=np.int64) if images else np.zeros(count, dtype=np.int64)
    rows = np.searchsorted(np.unique(np.quantile(prompts, input_quantiles, method="higher")), prompts)
    columns = np.searchsorted(np.unique(np.quantile(outputs, output_quantiles, method="higher")), outputs)
    keys = (rows * (len(output_quantiles) + 1) + columns) * 2 + (pictures > 0)
    found: list[Bucket] = []
    for key in np.unique(keys):
        members = keys == key
        found.append(
            Bucket(
                input_tokens=round(float(prompts[members].mean())),
                input_tokens_max=int(prompts[members].max()),
                output_tokens=round(float(outputs[members].mean())),
                rate_per_s=rate_per_s * int(members.sum()) / count,
                images=float(pictures[members].mean()),
            )
        )
    return Workload(buckets=tuple(found))
