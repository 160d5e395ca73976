"""Keeps the table that policies see in step with the simulated instances, at once or by late heartbeats.

With heartbeats every `stale_s` seconds a policy sees what each instance last reported plus what was
placed since (the in-flight ledger), as a router does; with 0 it sees the present. Prefixes are known
from the instances' own events and from what was placed. Decides nothing. Next: `fleet_run.py`.
"""

from collections.abc import Mapping, Sequence

from sluice.capacity.step_model import chunk_pairs
from sluice.domain.ids import WorkerId
from sluice.policy.fleet_table import ROLE_BITS, FleetTable
from sluice.simulator.instance import Instance
from sluice.simulator.sequence import SimSequence

HOUR_S = 3600.0


class FleetView:
    """The FleetTable and prefix index of one run."""

    def __init__(self, *, kv_token_bytes: int, unit_tokens: int, stale_s: float) -> None:
        self.table = FleetTable(kv_token_bytes=kv_token_bytes)
        self._unit_tokens = unit_tokens
        self._is_exact = stale_s <= 0.0
        self._holders: dict[int, int] = {}  # hash id -> a bit per slot

    def add(self, name: str, instance: Instance) -> None:
        """A new instance, in the slot it already knows."""
        slot = self.table.add(WorkerId(name))
        assert slot == instance.slot, "slots are given in order and never reused"
        spec, table = instance.spec, self.table
        if spec.gpu_class not in table.classes:
            table.classes.append(spec.gpu_class)
        table.gpu_class[slot] = table.classes.index(spec.gpu_class)
        table.blocks[slot] = spec.blocks
        table.block_tokens[slot] = spec.block_tokens
        table.sequence_tokens_max[slot] = spec.sequence_tokens_max
        table.batch_sequences_max[slot] = spec.batch_sequences_max
        table.base_s[slot] = spec.curve.base_s
        table.prefill_token_s[slot] = spec.curve.prefill_token_s
        table.pair_s[slot] = spec.curve.pair_s
        table.decode_s[slot] = spec.curve.decode_s
        table.context_token_s[slot] = spec.curve.context_token_s
        table.error[slot] = spec.curve.error
        table.link_bytes_per_s[slot] = spec.link_bytes_per_s
        table.price_per_s[slot] = spec.price_per_h / HOUR_S
        bit = 1 << slot

        def on_change(hash_id: int, is_stored: bool) -> None:  # noqa: FBT001 - the ledger's one caller names it
            mask = self._holders.get(hash_id, 0)
            mask = mask | bit if is_stored else mask & ~bit
            if mask:
                self._holders[hash_id] = mask
            else:
                self._holders.pop(hash_id, None)

        instance.ledger.on_change = on_change
        self.set_role(instance)
        self.set_ready(instance, is_ready=True)
        self.report(instance)

    def set_ready(self, instance: Instance, *, is_ready: bool) -> None:
        """Whether it admits work: known at once, because the fleet's owner decides it."""
        self.table.is_ready[instance.slot] = is_ready

    def set_role(self, instance: Instance) -> None:
        """The role it has now."""
        self.table.role_bits[instance.slot] = ROLE_BITS[instance.role]

    def changed(self, instance: Instance) -> None:
        """Something changed at an instance: seen at once, or with its next heartbeat."""
        if self._is_exact:
            self.report(instance)

    def report(self, instance: Instance) -> None:
        """The instance's heartbeat: its row is true now."""
        table, slot, prefills = self.table, instance.slot, instance.prefills
        table.waiting[slot] = len(prefills.waiting) + instance.incoming
        table.running[slot] = instance.running
        table.queued_tokens[slot] = prefills.queued_tokens + _as_tokens(instance)
        table.queued_pairs[slot] = max(0.0, prefills.queued_pairs)
        table.context_tokens[slot] = instance.batch.context_tokens
        table.free_blocks[slot] = instance.ledger.available

    def placed(self, sequence: SimSequence, *, cached_tokens: int) -> None:
        """A sequence goes to its slots. Late views count it in until the next heartbeat; its prefix is expected."""
        bit = 1 << sequence.prefill_slot
        for hash_id in sequence.hash_ids:
            self._holders[hash_id] = self._holders.get(hash_id, 0) | bit
        if self._is_exact:
            return
        table, slot = self.table, sequence.prefill_slot
        tokens = max(1, sequence.tokens - cached_tokens)
        table.waiting[slot] += 1
        table.queued_tokens[slot] += tokens
        table.queued_pairs[slot] += chunk_pairs(tokens, context_tokens=sequence.tokens - tokens)
        table.free_blocks[slot] -= -(-tokens // int(table.block_tokens[slot]))
        if sequence.decode_slot != slot:
            to = sequence.decode_slot
            table.waiting[to] += 1
            table.free_blocks[to] -= -(-sequence.tokens // int(table.block_tokens[to]))

    def cached_tokens(self, hash_ids: Sequence[int]) -> Mapping[int, int]:
        """Tokens of this prefix each slot holds or will soon hold; slots without any are left out."""
        matched: dict[int, int] = {}
        alive = self._holders.get(hash_ids[0], 0) if hash_ids else 0
        position = 0
        while alive:
            position += 1
            still = alive & self._holders.get(hash_ids[position], 0) if position < len(hash_ids) else 0
            _record(alive & ~still, position * self._unit_tokens, matched)
            alive = still
        return matched

    def forget(self, instance: Instance) -> None:
        """The instance is lost: nothing is cached or expected there."""
        bit = 1 << instance.slot
        for hash_id in [hash_id for hash_id, mask in self._holders.items() if mask & bit]:
            self._holders[hash_id] &= ~bit


def _as_tokens(instance: Instance) -> int:
    """Images that wait to be encoded, as the prompt tokens that would take as long."""
    token_s = instance.spec.curve.prefill_token_s
    return int(instance.images.work_s / token_s) if token_s > 0.0 else 0


def _record(slots: int, tokens: int, matched: dict[int, int]) -> None:
    while slots:
        lowest = slots & -slots
        matched[lowest.bit_length() - 1] = tokens
        slots ^= lowest
