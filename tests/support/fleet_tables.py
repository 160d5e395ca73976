"""Fleet tables made by hand: one short row per worker, the rest as an idle worker of its kind."""

from typing import Any

from sluice.domain.ids import WorkerId
from sluice.domain.role import Role
from sluice.policy.fleet_table import ROLE_BITS, FleetTable

IDLE = {
    "is_ready": 1,
    "free_blocks": 1000,
    "blocks": 1000,
    "block_tokens": 16,
    "sequence_tokens_max": 32768,
    "batch_sequences_max": 64,
    "step_tokens_max": 2048,
    "base_s": 0.01,
    "prefill_token_s": 0.0001,
    "pair_s": 1e-9,
    "decode_s": 0.0002,
    "context_token_s": 1e-8,
    "error": 0.1,
    "link_bytes_per_s": 1e10,
    "price_per_s": 0.001,
}


def fleet_of(*workers: tuple[Role, dict[str, Any]], kv_token_bytes: int = 131072) -> FleetTable:
    """Worker i is called w{i} and has slot i; its dict overrides columns of an idle worker."""
    fleet = FleetTable(classes=("A",), kv_token_bytes=kv_token_bytes)
    for number, (role, changes) in enumerate(workers):
        slot = fleet.add(WorkerId(f"w{number}"))
        for name, value in {**IDLE, "role_bits": ROLE_BITS[role], **changes}.items():
            getattr(fleet, name)[slot] = value
    return fleet
