"""What one placement costs: CPU time of every policy's decision over 32 and 1,000 workers, medians, one core.

python benchmarks/placement.py [--asks 300]
"""

import argparse
import random
import statistics
import time

from sluice.domain.ids import WorkerId
from sluice.domain.role import Role
from sluice.policy.fleet_table import ROLE_BITS, FleetTable
from sluice.policy.policy import Ask
from sluice.policy.registry import POLICIES, make_policy

ROLES = (Role.PREFILL, Role.DECODE, Role.MIXED)


def fleet_of(workers: int, draw: random.Random) -> FleetTable:
    """A busy fleet of all roles."""
    fleet = FleetTable(classes=("A",), kv_token_bytes=131072)
    for number in range(workers):
        slot = fleet.add(WorkerId(f"w{number}"))
        row = {
            "is_ready": 1,
            "role_bits": ROLE_BITS[ROLES[number % 3]],
            "running": draw.randint(0, 30),
            "queued_tokens": draw.randint(0, 4000),
            "context_tokens": draw.randint(1, 30_000),
            "free_blocks": draw.randint(100, 1000),
            "blocks": 1000,
            "block_tokens": 16,
            "sequence_tokens_max": 32768,
            "batch_sequences_max": 64,
            "base_s": 0.01,
            "prefill_token_s": 1e-4,
            "pair_s": 1e-9,
            "decode_s": 2e-4,
            "context_token_s": 1e-8,
            "error": 0.1,
            "link_bytes_per_s": 1e10,
            "price_per_s": 0.001,
        }
        for name, value in row.items():
            getattr(fleet, name)[slot] = value
    return fleet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asks", type=int, default=300)
    asks = parser.parse_args().asks
    for workers in (32, 1000):
        draw = random.Random(1)
        fleet = fleet_of(workers, draw)
        for name in POLICIES:
            policy, took = make_policy(name), []
            for number in range(asks):
                ask = Ask(prompt_tokens=draw.randint(10, 4000), output_tokens_max=500, seed=number)
                cached = {draw.randrange(workers): 500 for _ in range(3)}
                start = time.process_time_ns()
                policy.place(ask, fleet, cached, now_s=number * 0.01)
                took.append((time.process_time_ns() - start) / 1000)
            print(f"{workers:5} workers  {name:13} {statistics.median(took):7.1f} us")


if __name__ == "__main__":
    main()
