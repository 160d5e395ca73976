"""When KV arrives that is sent from one simulated replica to another.

The model: a replica sends and receives one transfer at a time, first come, first served, at the
slower side's bandwidth. KV leaves part by part while the rest is still computed, so that only the
last part, or what the link could not keep up with, is exposed. Next: `handoffs.py`.
"""

from sluice.simulator.instance import Instance


class Links:
    """When each replica's link is free; what all of them have carried."""

    def __init__(self) -> None:
        self._out_free_s: dict[int, float] = {}
        self._in_free_s: dict[int, float] = {}
        self.moved_bytes = 0
        self.transfers = 0
        self.exposed_s = 0.0  # from KV computed to KV there, summed

    def send(
        self, source: Instance, target: Instance, *, tokens: int, ready_s: float, since_s: float, parts: int
    ) -> float:
        """Occupy both links for the KV of `tokens` tokens; returns when all of it is there.

        The KV is complete at `ready_s`; from `since_s` on, its `parts` could leave one by one.
        """
        size = tokens * source.spec.kv_token_bytes
        duration_s = size / min(source.spec.link_bytes_per_s, target.spec.link_bytes_per_s)
        early_s = min(duration_s * (1 - 1 / parts), max(0.0, ready_s - since_s))
        free_s = max(self._out_free_s.get(source.slot, 0.0), self._in_free_s.get(target.slot, 0.0))
        ends_s = max(max(ready_s - early_s, free_s) + duration_s, ready_s + duration_s / parts)
        self._out_free_s[source.slot] = self._in_free_s[target.slot] = ends_s
        ends_s += max(source.spec.link_latency_s, target.spec.link_latency_s)
        self.moved_bytes += size
        self.transfers += 1
        self.exposed_s += ends_s - ready_s
        return ends_s
