"""Images of requests on their way through the encoders, before their requests are placed.

Who encodes what is the product's own decision (`policy/encoding.py`); a request whose last embedding
has arrived is placed like any other. Embeddings go to where they are read over the slower of both links. Traces do
not say which images are equal: a share of them may be taken as seen before, which costs no encoding (their
embeddings are kept and only sent). Next: `fleet_run.py`, which owns this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sluice.domain.role import Role
from sluice.policy.encoding import Encoder, Way, choose_encoders
from sluice.simulator.image_queue import SimImage
from sluice.simulator.instance import Instance
from sluice.simulator.sequence import SimSequence

ENCODE_SHARE: Final = 0.7
"""Of the time to first token that is left, what encoding may take of it; the rest is queue and prefill."""

_SPREAD: Final = 2_654_435_761  # odd, so that numbers that follow each other come apart (Knuth)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRules:
    """How a run's images are encoded."""

    embedding_bytes: int = 8192  # of one image token, as the language model reads it
    is_sharded: bool = True  # a request's images may go to several encoders
    part_tokens: int = 0  # a larger image is encoded in parts of so many, as towers of tiles allow; 0: whole
    seen_share: float = 0.0  # of images, how many an encoder has the embeddings of
    ttft_share: float = ENCODE_SHARE


class Halls(Protocol):
    """What encodes need of the run they happen in."""

    @property
    def instances(self) -> Sequence[Instance]:
        """All replicas, by slot."""
        ...

    def at(self, time_s: float, handler: Callable[[float], None]) -> None:
        """Call `handler` then."""
        ...

    def wake(self, instance: Instance, now_s: float) -> None:
        """Something came to this instance."""
        ...

    def can_take(self, instance: Instance) -> bool:
        """Whether it admits work."""
        ...

    def embedded(self, sequence: SimSequence, now_s: float) -> None:
        """All embeddings of the sequence's images are there."""
        ...


class Encodes:
    """All images under way."""

    def __init__(self, halls: Halls, rules: EncodeRules) -> None:
        self._halls = halls
        self._rules = rules
        self._missing: dict[int, int] = {}  # index of the sequence -> images not encoded yet
        self.ways = dict.fromkeys(Way, 0)
        self.shards = 0

    def start(self, sequence: SimSequence, now_s: float) -> bool:
        """Send a sequence's images to encoders; False where the fleet has none."""
        is_new = [not self._is_seen(sequence, image) for image in range(len(sequence.image_tokens))]
        parts = [
            part
            for tokens, is_wanted in zip(sequence.image_tokens, is_new, strict=True)
            if is_wanted
            for part in self._parts(tokens)
        ]
        if not any(self._may_encode(one) for one in self._halls.instances):
            return False
        self._missing[sequence.index] = len(parts) + (not all(is_new))
        if not all(is_new):
            self._deliver_seen(sequence, sum(sequence.image_tokens) - sum(parts), now_s)
        return not parts or self._send(sequence, parts, now_s)

    def _parts(self, tokens: int) -> list[int]:
        size = self._rules.part_tokens or max(1, tokens)
        return [min(size, tokens - first) for first in range(0, tokens, size)] or [0]

    def _is_seen(self, sequence: SimSequence, image: int) -> bool:
        """Drawn by request and image: the same in every run, whatever else happens there."""
        draw = ((sequence.index * _SPREAD + image + 1) * _SPREAD) % 2**32
        return draw < self._rules.seen_share * 2**32

    def _deliver_seen(self, sequence: SimSequence, tokens: int, now_s: float) -> None:
        """What is kept is sent from one of the encoders."""
        spec = next(one.spec for one in self._halls.instances if one.spec.encode is not None)
        delay_s = tokens * self._rules.embedding_bytes / spec.link_bytes_per_s + spec.link_latency_s
        kept = SimImage(sequence, tokens, sequence.attempt)
        self._halls.at(now_s + delay_s, lambda time_s: self._arrived(kept, time_s))

    def finished(self, instance: Instance, images: Sequence[SimImage], now_s: float) -> None:
        """These are encoded at `instance`; their embeddings leave for the prompt."""
        size = sum(image.tokens for image in images) * self._rules.embedding_bytes
        is_local = instance.role in {Role.PREFILL, Role.MIXED}
        delay_s = 0.0 if is_local else size / instance.spec.link_bytes_per_s + instance.spec.link_latency_s

        def arrived(time_s: float) -> None:
            for image in images:
                self._arrived(image, time_s)

        if images:
            self._halls.at(now_s + delay_s, arrived)

    def redo(self, images: Sequence[SimImage], now_s: float) -> None:
        """Their encoder is lost: they go elsewhere."""
        for image in images:
            if not self._send(image.sequence, (image.tokens,), now_s):
                self._halls.at(now_s + 1.0, lambda time_s, image=image: self.redo([image], time_s))  # type: ignore[misc]

    def _arrived(self, image: SimImage, now_s: float) -> None:
        index = image.sequence.index
        self._missing[index] -= 1
        if not self._missing[index]:
            del self._missing[index]
            self._halls.embedded(image.sequence, now_s)

    def _send(self, sequence: SimSequence, tokens: Sequence[int], now_s: float) -> bool:
        encoders = [self._encoder(one, now_s, sequence) for one in self._halls.instances if self._may_encode(one)]
        left_s = sequence.deadlines.first_due_s - now_s
        budget_s = self._rules.ttft_share * left_s
        whole = [sum(tokens)] if not self._rules.is_sharded else tokens
        plan = choose_encoders(whole, encoders, budget_s=budget_s)
        if plan is None:
            return False
        self.ways[plan.way] += 1
        self.shards += len(plan.shards)
        for shard in plan.shards:
            instance = self._halls.instances[shard.slot]
            for image in shard.images if self._rules.is_sharded else range(len(tokens)):
                instance.images.put(SimImage(sequence, tokens[image], sequence.attempt))
            self._halls.wake(instance, now_s)
        return True

    def _may_encode(self, instance: Instance) -> bool:
        return instance.spec.encode is not None and self._halls.can_take(instance)

    def _encoder(self, instance: Instance, now_s: float, sequence: SimSequence) -> Encoder:
        assert instance.spec.encode is not None
        wait_s = instance.images.work_s
        if instance.is_running and not instance.images.is_encoding:
            wait_s += min(instance.step_now_s, max(0.0, instance.ends_s - now_s))
        return Encoder(
            slot=instance.slot,
            role=instance.role,
            curve=instance.spec.encode,
            wait_s=wait_s,
            price_per_s=instance.spec.price_per_h / 3600.0,
            decodes=len(instance.batch),
            slack_s=sequence.slo.tpot_s,
        )
