"""Decides who encodes a request's images: which share of them goes to which replica, cheap ones first.

A replica that only encodes, one that prefills, one that decodes or one that does all may each hold the vision
tower; who does what follows from their encode curves, their queues, their prices and how much of the time to
first token is left. So E-P-D, EP-D, ED-P and all-in-one are outcomes, per request, not wirings. Sharding
a request's images over encoders is EPD's intra-request parallelism (arXiv 2501.05460, section 3.2.2). Pure.
Next: `joint.py` for who prefills and decodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from sluice.capacity.encode_curve import EncodeCurve
from sluice.domain.role import Role

STALL_WEIGHT: Final = 1.0
"""What a second that a decoding sequence waits for an encode is worth, in seconds of its replica's share."""


class Way(Enum):
    """Where the encode phase of one request runs, as EPD and xLLM (arXiv 2510.14686) name it."""

    APART = "E-P-D"  # on replicas that do nothing else
    WITH_PREFILL = "EP-D"
    WITH_DECODE = "ED-P"
    TOGETHER = "EPD"  # on replicas that do all phases
    SEVERAL = "several"  # shards of one request went different ways


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """One replica that holds the vision tower. `wait_s`: until an image sent now would begin."""

    slot: int
    role: Role
    curve: EncodeCurve
    wait_s: float
    price_per_s: float  # dollars, of the whole replica
    decodes: int = 0  # sequences that wait while it encodes
    slack_s: float = 0.0  # how long they may wait without missing an objective
    held: frozenset[int] = frozenset()  # indices of the request's images whose embeddings it has

    def later(self, delay_s: float) -> "Encoder":
        """The same, beginning `delay_s` later."""
        return replace(self, wait_s=self.wait_s + delay_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Images of one request, by index, for one replica."""

    slot: int
    images: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodePlan:
    """Who encodes what. `ready_s`: when the last embedding is expected; `dollars`: of replica time taken."""

    shards: tuple[Shard, ...]
    ready_s: float
    dollars: float
    way: Way


@dataclass(slots=True)
class _Share:
    """What one encoder is given so far."""

    encoder: Encoder
    images: list[int]
    tokens: list[int]

    def work_s(self, more: int) -> float:
        """Seconds of encoding with one image of `more` embeddings on top."""
        return self.encoder.curve.encode_s([*self.tokens, more])


def choose_encoders(image_tokens: Sequence[int], encoders: Sequence[Encoder], *, budget_s: float) -> EncodePlan | None:
    """A plan for images given by their embeddings: the largest first, each to the cheapest replica that has it done
    within `budget_s`, or to the one that has it done first when none has. None without encoders.

    An image whose embeddings a replica holds already goes there for nothing.
    """
    if not encoders:
        return None
    shares = [_Share(encoder, [], []) for encoder in encoders]
    for image in sorted(range(len(image_tokens)), key=lambda index: -image_tokens[index]):
        holder = next((share for share in shares if image in share.encoder.held), None)
        if holder is not None:
            holder.images.append(image)
            continue
        tokens = image_tokens[image]
        in_time = [share for share in shares if share.encoder.wait_s + share.work_s(tokens) <= budget_s]
        chosen = min(in_time or shares, key=lambda share: _rank(share, tokens, budget_s=budget_s if in_time else 0.0))
        chosen.images.append(image)
        chosen.tokens.append(tokens)
    used = [share for share in shares if share.images]
    return EncodePlan(
        shards=tuple(Shard(slot=share.encoder.slot, images=tuple(sorted(share.images))) for share in used),
        ready_s=max((_ready_s(share) for share in used), default=0.0),
        dollars=sum(share.encoder.curve.encode_s(share.tokens) * share.encoder.price_per_s for share in used),
        way=way_of([share.encoder.role for share in used]),
    )


def way_of(roles: Sequence[Role]) -> Way:
    """What the roles of those who encode make of a request."""
    ways = {_WAYS[role] for role in roles}
    return next(iter(ways)) if len(ways) == 1 else Way.SEVERAL


def _rank(share: _Share, tokens: int, *, budget_s: float) -> tuple[float, float]:
    """In time: dollars, dearer the more of the budget is used, so that equals share evenly. Late: the end first."""
    encoder = share.encoder
    work_s = share.work_s(tokens)
    more_s = encoder.curve.encode_s([tokens]) - encoder.curve.batch_s  # the batch's own cost must not glue images
    stall_s = STALL_WEIGHT * encoder.decodes * max(0.0, work_s - encoder.slack_s)
    dollars = (more_s + stall_s) * encoder.price_per_s
    ends_s = encoder.wait_s + work_s
    return (dollars * (1.0 + ends_s / budget_s), ends_s) if budget_s > 0.0 else (ends_s, dollars)


def _ready_s(share: _Share) -> float:
    return share.encoder.wait_s + share.encoder.curve.encode_s(share.tokens) if share.tokens else 0.0


_WAYS: Final = {
    Role.ENCODE: Way.APART,
    Role.PREFILL: Way.WITH_PREFILL,
    Role.DECODE: Way.WITH_DECODE,
    Role.MIXED: Way.TOGETHER,
}
