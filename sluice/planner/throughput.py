"""The most requests of one size a replica carries within the objectives, per phase, and what limits it.

Melange (arXiv 2404.14527, section 4) measures this with one GPU type and one size at a time; here it
follows from the step model. Load adds up over sizes: exactly for step time, conservatively for the rest.
What is assumed is in the docstrings; `docs/planner.md` lists it. Pure. Next: `problem.py`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, NamedTuple

from sluice.capacity.step_model import StepShape, chunk_pairs, prefill_s
from sluice.planner.queueing import occupancy_mean, utilisation_max
from sluice.planner.replica_kind import ReplicaKind
from sluice.planner.workload import Bucket

LINK_UTILISATION_MAX: Final = 0.7  # transfers come in bursts; the link is shared with migrations


class Phase(Enum):
    """What a pool of replicas does."""

    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"
    TOKENS = "tokens"  # prefill and decode on one worker without the vision tower: images come from encode pools


class Limit(Enum):
    """What a replica runs into first."""

    TTFT = "ttft"
    TPOT = "tpot"
    MEMORY = "memory"
    BATCH = "batch"
    LINK = "link"
    NO_ENCODER = "no encoder"


class Rate(NamedTuple):
    """Requests per second one replica carries; 0 when it cannot serve them in time at all."""

    per_s: float
    limit: Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The objectives and how they are divided.

    `attainment` is the share of requests that shall meet both. Of the TTFT a request with images
    spends `encode_share` on encoding; of the time its output may take, a handed-over request
    spends `transfer_share` on the transfer, which must fit on both sides' links.
    """

    ttft_s: float
    tpot_s: float
    attainment: float = 0.99
    encode_share: float = 0.3
    transfer_share: float = 0.1

    @property
    def miss_share(self) -> float:
        """The share of requests that may miss."""
        return 1 - self.attainment


def rate_of(phase: Phase, kind: ReplicaKind, bucket: Bucket, target: Target) -> Rate:
    """What one replica of `kind` carries of `bucket` when it does only `phase`."""
    return _RATES[phase](kind, bucket, target)


def encode_rate(kind: ReplicaKind, bucket: Bucket, target: Target) -> Rate:
    """Images one by one, first come first served."""
    if kind.encode_image_s is None:
        return Rate(0.0, Limit.NO_ENCODER)
    service_s = kind.encode_image_s * max(1.0, bucket.images)
    slack_s = target.ttft_s * target.encode_share - service_s
    full = utilisation_max(service_s=service_s, slack_s=slack_s, miss_share=target.miss_share)
    return Rate(full / service_s, Limit.TTFT)


def prefill_rate(kind: ReplicaKind, bucket: Bucket, target: Target) -> Rate:
    """Prompts one by one, first come first served; the longest of the bucket must be in time after waiting.

    That steps may hold several short prompts is not counted on; neither are prefix hits.
    """
    if bucket.input_tokens_max > kind.kv_tokens:
        return Rate(0.0, Limit.MEMORY)
    service_s = prefill_s(kind.model, bucket.input_tokens, step_tokens=kind.step_tokens)
    longest_s = prefill_s(kind.model, bucket.input_tokens_max, step_tokens=kind.step_tokens)
    slack_s = _prefill_allowance_s(bucket, target) - longest_s
    full = utilisation_max(service_s=service_s, slack_s=slack_s, miss_share=target.miss_share)
    return _at_most_link(Rate(full / service_s, Limit.TTFT), kind, bucket, target)


def decode_rate(kind: ReplicaKind, bucket: Bucket, target: Target) -> Rate:
    """Continuous batching: as many sequences as step time and memory allow, less room for their number to vary."""
    context = bucket.input_tokens + bucket.output_tokens // 2
    step_s_max = target.tpot_s * (1 - target.transfer_share)

    def step_s(sequences: int) -> float:
        return kind.model.step_s(StepShape(decodes=sequences, context_tokens=sequences * context))

    room, limit = _room(kind, bucket, context)
    places = _most(room, lambda sequences: step_s(sequences) <= step_s_max)
    if places < room:
        limit = Limit.TPOT
    if not places:
        return Rate(0.0, limit)
    mean = occupancy_mean(places, miss_share=target.miss_share)
    rate = Rate(mean / (_output_steps(bucket) * _between(step_s, mean)), limit)
    return _at_most_link(rate, kind, bucket, target)


def mixed_rate(kind: ReplicaKind, bucket: Bucket, target: Target) -> Rate:
    """One worker for all phases: chunks of prefill ride on decode steps (Sarathi-Serve, OSDI 2024).

    In steady state a step with B decodes also computes B / output_tokens prompts' worth of tokens, so the
    mean step is that of both; a prompt in prefill takes steps of the full token budget.
    """
    if bucket.images and kind.encode_image_s is None:
        return Rate(0.0, Limit.NO_ENCODER)
    kind = replace(kind, kv_tokens=max(0, kind.kv_tokens - kind.tower_tokens))
    return _whole_rate(
        kind, bucket, target, encode_s=bucket.images * (kind.encode_image_s or 0.0), ttft_s=target.ttft_s
    )


def tokens_rate(kind: ReplicaKind, bucket: Bucket, target: Target) -> Rate:
    """The same for a worker that reads embeddings which others have made in their share of the TTFT."""
    return _whole_rate(kind, bucket, target, encode_s=0.0, ttft_s=_prefill_allowance_s(bucket, target))


def _whole_rate(kind: ReplicaKind, bucket: Bucket, target: Target, *, encode_s: float, ttft_s: float) -> Rate:
    context = bucket.input_tokens + bucket.output_tokens // 2
    room, limit = _room(kind, bucket, context)
    steps = _output_steps(bucket)

    def step_s(sequences: int) -> float:
        share = sequences / steps
        shape = StepShape(
            prefill_tokens=math.ceil(share * bucket.input_tokens),
            prefill_pairs=share * chunk_pairs(bucket.input_tokens, context_tokens=0),
            prefills=1,
            decodes=sequences,
            context_tokens=sequences * context,
        )
        return kind.model.step_s(shape) + share * encode_s

    def is_ttft_met(sequences: int) -> bool:
        batch = StepShape(decodes=sequences, context_tokens=sequences * context)
        service_s = encode_s + _chunked_s(kind, bucket.input_tokens, batch)
        longest_s = encode_s + _chunked_s(kind, bucket.input_tokens_max, batch)
        full = utilisation_max(service_s=service_s, slack_s=ttft_s - longest_s, miss_share=target.miss_share)
        return sequences / (steps * step_s(sequences)) * service_s <= full

    in_step = _most(min(room, kind.step_tokens - 1), lambda sequences: step_s(sequences) <= target.tpot_s)
    if in_step < room:
        limit = Limit.TPOT
    places = _most(in_step, is_ttft_met)
    if places < in_step:
        limit = Limit.TTFT
    if not places:
        return Rate(0.0, limit)
    mean = occupancy_mean(places, miss_share=target.miss_share)
    return Rate(mean / (steps * _between(step_s, mean)), limit)


_RATES: Final = {
    Phase.ENCODE: encode_rate,
    Phase.PREFILL: prefill_rate,
    Phase.DECODE: decode_rate,
    Phase.MIXED: mixed_rate,
    Phase.TOKENS: tokens_rate,
}


def _prefill_allowance_s(bucket: Bucket, target: Target) -> float:
    return target.ttft_s * (1 - target.encode_share if bucket.images else 1)


def _output_steps(bucket: Bucket) -> int:
    return max(1, bucket.output_tokens - 1)  # prefill gives the first token


def _room(kind: ReplicaKind, bucket: Bucket, context: int) -> tuple[int, Limit]:
    """Sequences that fit, by memory and by the batch's bound."""
    if bucket.input_tokens_max + bucket.output_tokens > kind.kv_tokens:
        return 0, Limit.MEMORY
    fitting = kind.kv_tokens // max(1, context)
    return (fitting, Limit.MEMORY) if fitting <= kind.batch_sequences_max else (kind.batch_sequences_max, Limit.BATCH)


def _chunked_s(kind: ReplicaKind, tokens: int, batch: StepShape) -> float:
    """Seconds to prefill `tokens` in chunks beside a decoding batch."""
    chunk_max = max(1, kind.step_tokens - batch.decodes)
    total_s, done = 0.0, 0
    while done < tokens:
        chunk = min(chunk_max, tokens - done)
        pairs = chunk_pairs(chunk, context_tokens=done)
        total_s += kind.model.step_s(batch._replace(prefill_tokens=chunk, prefill_pairs=pairs, prefills=1))
        done += chunk
    return total_s


def _at_most_link(rate: Rate, kind: ReplicaKind, bucket: Bucket, target: Target) -> Rate:
    """A handed-over prompt's KV crosses this replica's link: in time, and not more than it carries."""
    moved_bytes = bucket.input_tokens * kind.kv_token_bytes
    if moved_bytes == 0:
        return rate
    allowance_s = target.transfer_share * target.tpot_s * bucket.output_tokens
    if moved_bytes > kind.link_bytes_per_s * allowance_s:
        return Rate(0.0, Limit.LINK)
    carried = LINK_UTILISATION_MAX * kind.link_bytes_per_s / moved_bytes
    return rate if rate.per_s <= carried else Rate(carried, Limit.LINK)


def _most(high: int, is_fine: Callable[[int], bool]) -> int:
    """The largest number in 0..high that is fine; fine must turn to not fine once."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_fine(middle) else (low, middle - 1)
    return low


def _between(step_s: Callable[[int], float], sequences: float) -> float:
    """Step time at a fractional number of sequences, linear between its neighbours."""
    below = max(1, math.floor(sequences))
    part = max(0.0, sequences - below)
    return step_s(below) * (1 - part) + step_s(below + 1) * part
